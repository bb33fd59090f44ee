"""Dropout at fixed rates, given by the user."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import ClassVar

from torch import nn

from crossbar_sim.baselines.method import (
    Build,
    Method,
    Trained,
    check_development,
    check_switch,
    fresh,
    shown,
    trained,
)
from crossbar_sim.data import Development
from crossbar_sim.errors import InputError
from crossbar_sim.nn.dropout_sites import rates, remove_found, set_rates
from crossbar_sim.nn.multinomial import from_multinomial, to_multinomial
from crossbar_sim.nn.training.loop import Epoch
from crossbar_sim.nn.training.settings import Training, check_training
from crossbar_sim.rng import Key, as_key
from crossbar_sim.validate import is_rate


@dataclass(frozen=True)
class Dropout(Method):
    """Plain training with dropout at every site: the network's own dropout layers, or those found in it.

    Args:
        rate: one for all sites, or one for each, in [0, 1).
        alpha: alpha dropout (Klambauer et al., NeurIPS 2017) in place of dropout: values are set to a negative
            constant rather than 0, and mean and variance are kept. For networks with nn.Dropout of their own;
            sites that drop whole channels must have the rate 0.
        training: how.
        multinomial: multinomial dropout in place of dropout: a value is set to 0 with the rate, else halved or kept,
            each as likely, and the mean is kept. For networks with dropout layers of their own.

    Raises:
        InputError: if a rate is out of range, or both alpha and multinomial are asked for.
    """

    rate: float | tuple[float, ...] = 0.5
    alpha: bool = False
    training: Training = Training()  # noqa: RUF009 - frozen
    multinomial: bool = False
    kind: ClassVar[str] = "dropout"
    later: ClassVar[Mapping[str, object]] = {"multinomial": False}
    citation: ClassVar[str] = "Srivastava et al., Dropout, JMLR 15 (2014) 1929"

    def __post_init__(self) -> None:
        check_training(self.training)
        check_rates("rate", self.rate)
        check_switch("alpha", self.alpha)
        check_switch("multinomial", self.multinomial)
        if self.alpha and self.multinomial:
            raise InputError("alpha and multinomial are two kinds of dropout: give one of them")

    def __repr__(self) -> str:
        return shown(self)

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
        model = fresh(build, key)
        set_rates(model, self.rate)
        notes = {"rates": rates(model)}
        if self.alpha:
            to_alpha(model)
        if self.multinomial:
            to_multinomial(model)
        done = trained(self, model, known, key, progress=progress, checkpoint=checkpoint, notes=notes)
        remove_found(model)  # they do nothing any more but keep a model from faster routes
        from_multinomial(model)
        return done


def to_alpha(model: nn.Module) -> None:
    """Replace every nn.Dropout of the model by an nn.AlphaDropout of its rate, in place.

    Raises:
        InputError: if there is none, or others drop whole channels: rates would silently be those of plain dropout.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout1d | nn.Dropout2d | nn.Dropout3d) and module.p > 0:
            raise InputError(
                f"{name} is nn.{type(module).__name__}, which drops whole channels: alpha dropout has no such form, so "
                f"give it the rate 0 (a rate for every site, such as [0, 0.2]), or leave out alpha"
            )
    replaced = 0
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, nn.AlphaDropout(child.p))
                replaced += 1
    if not replaced:
        raise InputError(
            f"{type(model).__name__} has no nn.Dropout of its own that alpha dropout could replace"
        )


def check_rates(name: str, given: object) -> None:
    """Refuse anything but a rate in [0, 1) or a tuple of rates.

    Raises:
        InputError: naming the field.
    """
    for rate in given if isinstance(given, tuple) else (given,):
        if not is_rate(rate):
            raise InputError(
                f"{name}={given!r}: dropout rates are numbers in [0, 1), one or a tuple of one per site"
            )
