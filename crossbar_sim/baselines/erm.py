"""Empirical risk minimisation (ERM): plain training, the reference for all other methods."""

from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from typing import ClassVar

from crossbar_sim.baselines.method import Build, Method, Trained, check_development, fresh, trained
from crossbar_sim.data import Development
from crossbar_sim.nn.training.loop import Epoch
from crossbar_sim.nn.training.settings import Training, check_training
from crossbar_sim.rng import Key, as_key


@dataclass(frozen=True)
class Erm(Method):
    """Minimise the mean loss of the clean network; dropout sites keep the rates that `build` gives them.

    Args:
        training: how.
    """

    training: Training = Training()  # noqa: RUF009 - frozen
    kind: ClassVar[str] = "erm"
    citation: ClassVar[str] = "Vapnik, Principles of Risk Minimization for Learning Theory, NeurIPS 1991"

    def __post_init__(self) -> None:
        check_training(self.training)

    def fit(
        self,
        build: Build,
        development: Development,
        key: Key,
        *,
        progress: Callable[[Epoch], None] | None = None,
        checkpoint: str | PathLike[str] | None = None,
    ) -> Trained:
        """See `Method.fit`."""
        known = check_development(development, detection=True)
        key = as_key(key)
        return trained(self, fresh(build, key), known, key, progress=progress, checkpoint=checkpoint)
