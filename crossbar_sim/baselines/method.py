"""The interface of a training method: `Method.fit(build, development, key)` returns a `Trained`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from os import PathLike
from typing import Any, ClassVar

from torch import nn

from crossbar_sim.data import Development, Scenes
from crossbar_sim.data.inputs import Batch
from crossbar_sim.data.load import to_development
from crossbar_sim.errors import InputError
from crossbar_sim.nn.detection import check_task
from crossbar_sim.nn.evaluate import inputs_for
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.nn.standardised import standardisation_of
from crossbar_sim.nn.training.loop import Epoch, FitReport, LossStep
from crossbar_sim.nn.training.loop import fit as train_network
from crossbar_sim.nn.training.losses import TaskLoss
from crossbar_sim.nn.training.settings import Step, Training, check_fits, check_training
from crossbar_sim.rng import Key
from crossbar_sim.validate import show

Build = Callable[[], nn.Module]
"""Makes a fresh network; its initialisation is drawn from torch's generator, which the method seeds."""


@dataclass(frozen=True, eq=False)
class Trained:
    """The result of a training method.

    Args:
        model: in evaluation mode, on the CPU, ready to be swept, deployed or saved.
        report: of its training.
        notes: what the method found out, as plain JSON values: codes, rates, frozen cells.
    """

    model: nn.Module
    report: FitReport
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        score, error = self.report.validation_accuracy, self.report.validation_error
        found = "" if score is None else f", validation {score:.4g}"
        found = found if error is None else f", validation RMSE {error:.4g}"
        own = self.report.validation_score
        found = found if own is None else f", validation {own:.4g} by its metric"
        return f"Trained({type(self.model).__name__} after {self.report.epochs} epochs{found})"


class Method(ABC):
    """A training method: a frozen dataclass of its settings, with `fit`.

    It sees training and validation examples only: a test split has no way in.
    """

    kind: ClassVar[str]
    citation: ClassVar[str]
    later: ClassVar[Mapping[str, object]] = {}
    """Fields that came after files were written, and their defaults: files name them only where they differ."""
    training: Training

    @abstractmethod
    def fit(
        self,
        build: Build,
        development: Development,
        key: Key,
        *,
        progress: Callable[[Epoch], None] | None = None,
        checkpoint: str | PathLike[str] | None = None,
    ) -> Trained:
        """Train a fresh network.

        Args:
            build: makes it.
            development: what may be seen.
            key: of initialisation, shuffling, dropout and training noise.
            progress: called after every epoch.
            checkpoint: a file from which an interrupted training resumes, with the same final weights.

        Raises:
            InputError: if a setting, the network and the data do not go together.
        """


def shown(method: Method) -> str:
    """The repr of a method, by which checkpoints, studies and experiments know it: without `later` at its defaults."""
    named = [
        f"{f.name}={value!r}"
        for f in fields(method)  # type: ignore[arg-type]
        for value in [getattr(method, f.name)]
        if f.name not in method.later or value != method.later[f.name]
    ]
    return f"{type(method).__name__}({', '.join(named)})"


def check_development(development: object, detection: bool = False) -> Development:
    """Convert data to a `Development`; data with a test split is refused.

    Args:
        development: what was given, see `data.load.to_development`.
        detection: whether the method can train a detector on scenes.

    Raises:
        InputError: naming what was given.
    """
    development = to_development(development)
    if isinstance(development.train, Scenes) and not detection:
        raise InputError(
            "this method acts on the logits of classes, which a detector does not give: scenes with objects are learnt "
            "with erm, dropout, drift-aware (temperature=false) or bayesft"
        )
    return development


def check_switch(name: str, given: object) -> None:
    """Refuse anything but True or False: any other value would count as True.

    Raises:
        InputError: naming the field.
    """
    if not isinstance(given, bool):
        raise InputError(f"{name}={show(given)}: true or false is needed")


def fresh(build: Build, key: Key, calibrated: bool = False) -> nn.Module:
    """A network whose initialisation is determined by the key.

    Args:
        build: makes it.
        key: of its random weights.
        calibrated: whether the method can continue the training of a network that was trained for calibration.

    Raises:
        InputError: if `build` makes no network, or one that the method cannot continue with.
    """
    if isinstance(build, nn.Module) or not callable(build):
        what = (
            f"the network {type(build).__name__} itself" if isinstance(build, nn.Module) else repr(build)[:60]
        )
        raise InputError(
            f"build={what}: give what makes a fresh network, its class or a function such as lambda: Net(10)"
        )
    with seeded(key.fold("initialisation")):
        try:
            model = build()
        except TypeError as error:
            raise InputError(f"build cannot make a network without arguments: {error}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"build made {type(model).__name__}, expected a torch.nn.Module")
    if standardisation_of(model) is not None:
        check_keeps(calibrated)
    return model


def check_keeps(calibrated: bool) -> None:
    """Refuse to continue the training of a network that was trained for calibration with a method that is not for it.

    Raises:
        InputError: naming the methods that are.
    """
    if not calibrated:
        raise InputError(
            "the weights to begin with are of a network that was trained for calibrated chips (--calibrated), and this "
            "training would not keep it so: continue with train --method drift-aware --calibrated or search "
            "--calibrated (calibrated=True in Python and in settings)"
        )


def trained(
    method: Method,
    model: nn.Module,
    development: Development,
    key: Key,
    *,
    loss_step: LossStep | None = None,
    step: Step | None = None,
    steps: Callable[[TaskLoss], Step] | None = None,
    squared: Sequence[nn.Parameter] = (),
    after_epoch: Callable[[nn.Module, Batch], None] | None = None,
    progress: Callable[[Epoch], None] | None = None,
    checkpoint: str | PathLike[str] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Trained:
    """Train a model from `fresh`, for methods that train once.

    Args:
        method: whose `training` it is; its repr tells its checkpoints from those of others.
        model: fresh, with its dropout rates set.
        development, key, progress, checkpoint: of `Method.fit`.
        loss_step, step, steps: what the method does in a step, see `nn.fit`; none: it minimises the loss.
        squared, after_epoch: of `nn.fit`.
        notes: of `Trained`.

    Raises:
        InputError: as `nn.fit`, and if the network does not take these examples or has too few classes.
    """
    check_training(method.training)
    labels = [split.y for split in (development.train, development.validation) if split.y is not None]
    one = all(y.dim() == 1 and not y.is_floating_point() for y in labels)
    if one and method.training.loss is None and not (labels and check_task(model, labels[0])):
        check_fits(
            model,
            inputs_for(model.eval(), development.train.x[:1])[0],
            max((int(y.max()) for y in labels), default=-1),
        )
    report = train_network(
        model,
        development.train,
        development.validation,
        key=key,
        training=method.training,
        loss_step=loss_step,
        step=step,
        steps=steps,
        squared=squared,
        after_epoch=after_epoch,
        method=repr(method),
        progress=progress,
        checkpoint=checkpoint,
    )
    return Trained(model.cpu(), report, dict(notes or {}))
