"""A metric that judges validation examples while a network is trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from crossbar_sim.data.inputs import Batch
from crossbar_sim.errors import InputError
from crossbar_sim.robustness.metrics import METRICS, PER_CENT, Metric, described, find_metric
from crossbar_sim.robustness.score import Reference


@dataclass(frozen=True)
class Validation:
    """What `Training(metric=...)` takes.

    Args:
        metric: of classes, tokens or real targets, or a function of the user's own.
    """

    metric: Metric

    @classmethod
    def of(cls, metric: Any) -> "Validation":
        """By name, import path or function, see `find_metric`.

        Raises:
            InputError: if there is no such metric, or it compares a chip with the clean model.
        """
        if isinstance(metric, Validation):
            return metric
        found = find_metric(metric)
        if found.name in METRICS and found.targets in ("outputs", "boxes"):
            why = "compares a chip with the clean model" if found.targets == "outputs" else "is of detectors"
            raise InputError(
                f"metric={found.name!r} {why}, and here a network is judged on validation examples: use accuracy, f1, "
                "perplexity, rmse, ... or a function of yours"
            )
        return cls(found)

    def __repr__(self) -> str:
        return repr(self.metric)  # part of what names checkpoints and experiments

    def score(self, model: nn.Module, x: Batch, y: Tensor) -> float:
        """The score of a model in evaluation mode, more being better; of a perplexity minus its logarithm.

        Args:
            model: on any device.
            x, y: the examples, with y on the CPU.

        Raises:
            InputError: if model, targets and metric do not go together, or the score is not finite.
        """
        reference = Reference.of(model, x, y, judge=self.metric)
        reference.check_metric(reference.metric(self.metric.name))
        return reference.clean_score().value(self.metric.name)

    def shown(self, score: float) -> float:
        """A score as people read it."""
        return self.metric.shown(score)

    def in_words(self, shown: float) -> str:
        """`macro F1 91.2 %`."""
        about = described(self.metric.name, self.metric.about)
        number = f"{100 * shown:.1f} %" if about.unit == PER_CENT else f"{shown:.4g} {about.unit}".strip()
        return f"{about.title} {number}"


def with_metric(training: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `Training` in which a metric is a name, an import path or a function, with the `Validation` of it.

    Raises:
        InputError: as `Validation.of`.
    """
    metric = training.get("metric")
    return {**training, **({} if metric is None else {"metric": Validation.of(metric)})}
