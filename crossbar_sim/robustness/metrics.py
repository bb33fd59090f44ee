"""Metrics: what chips are judged by. Built-in ones by name, others as functions of outputs and targets."""

import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossbar_sim.errors import InputError
from crossbar_sim.nn.evaluate import one_thread, torch_threads_kept
from crossbar_sim.user_code import attribute, fingerprint, import_module, source_text


@dataclass(frozen=True)
class Metric:
    """A metric of chips.

    Args:
        name: as results files have it: a built-in name or `package.module:function`; with a minus sign before a
            function of which less is better, because such scores are stored with a minus sign.
        sign: 1 if more is better, -1 if less is.
        share: whether values lie in 0 .. 1.
        mean: whether it is a mean over examples, which some of them can estimate; None: known when it has run.
        task: the kind of model that it is for.
        function: of outputs and targets; None: `Reference.score` or `DetectionReference.score` computes it.
        source: SHA-256 (hex) of the function's source; None for built-in metrics.
    """

    name: str
    sign: int = 1
    share: bool = True
    mean: bool | None = False
    task: str = "classification"
    function: Callable[[Tensor, Tensor], Any] | None = None
    source: str | None = None

    @property
    def identity(self) -> dict[str, str]:
        """What a task's identity holds beside the name; empty for built-in metrics."""
        return {} if self.source is None else {"metric_source": self.source}

    def evaluate(self, outputs: Tensor, targets: Tensor) -> NDArray[np.float64]:
        """The values of the function: shape () for one number, (n,) for one number per example.

        Args:
            outputs: (n, ...), classes on the second axis, on the CPU; outputs of a chip may be infinite or NaN.
            targets: (n, ...) labels; without labels the outputs of the clean model.

        Raises:
            InputError: if the function fails or returns anything else.
        """
        assert self.function is not None
        with torch_threads_kept(), torch.no_grad():
            one_thread()  # the order of sums must not depend on the number of threads
            try:
                found = (
                    torch.as_tensor(self.function(outputs.clone(), targets.clone())).double().cpu().numpy()
                )
            except Exception as error:  # of the user's own code
                why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                raise InputError(
                    f"metric {self.name} failed on {_shapes(outputs, targets)}: {why}"
                ) from error
        if found.shape not in ((), (len(outputs),)):
            raise InputError(
                f"metric {self.name} returned shape {tuple(found.shape)} for {_shapes(outputs, targets)}: expected one "
                f"number, or one per example ({len(outputs)},)"
            )
        values: NDArray[np.float64] = found
        return values

    def value(self, outputs: Tensor, targets: Tensor) -> float:
        """One number: that of the function, or the mean over examples."""
        return mean_of(self.evaluate(outputs, targets))

    def check_importable(self) -> None:
        """Refuse a function that other processes cannot import by its name.

        Raises:
            InputError: with the remedy.
        """
        if self.function is None:
            return
        module, _, names = self.name.removeprefix("-").partition(":")
        if module == "__main__" or attribute(sys.modules.get(module), names) is not self.function:
            raise InputError(
                f"metric {self.name} cannot be sent to workers: define it with def at the top level of a module, or "
                "run without workers"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """By name: the receiving process imports the function."""
        return find_metric, (self.name,)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", mean=True),
        Metric("agreement", mean=True),
        Metric("output_error", sign=-1, share=False),
        Metric("map", task="detection"),
        Metric("map50", task="detection"),
    )
}
"""The built-in metrics. `Score` and the references compute them: a new one needs an entry here, and its score there."""


def names_of(task: str) -> tuple[str, ...]:
    """The built-in metrics of a task."""
    return tuple(name for name, metric in METRICS.items() if metric.task == task)


def names_code(metric: object) -> bool:
    """Whether the name of a metric is an import path."""
    return isinstance(metric, str) and ":" in metric


def sign_of(name: str) -> int:
    """-1 for a metric whose scores are stored with a minus sign, because less is better; else 1."""
    known = METRICS.get(name)
    return known.sign if known else -1 if name.startswith("-") else 1


def is_share(name: str) -> bool:
    """Whether a metric is known to lie in 0 .. 1."""
    return name in METRICS and METRICS[name].share


def find_metric(metric: str | Callable[[Tensor, Tensor], Any]) -> Metric:
    """A metric by its name or import path, or of a function.

    A function is called with outputs (n, ...) and targets and returns one number, or one per example, of which the mean
    counts. More is better, unless the function has the attribute `larger_is_better = False`, or its import path has a
    minus sign before it.

    Args:
        metric: a key of METRICS, `package.module:function` (its module is imported, which runs its code), or a
            function.

    Raises:
        InputError: if there is no such metric, or the source of the function cannot be read.
    """
    if isinstance(metric, str):
        if metric in METRICS:
            return METRICS[metric]
        if not names_code(metric):
            raise InputError(
                f"metric={metric!r} is unknown: expected one of {', '.join(METRICS)}, or package.module:function"
            )
        path = metric.removeprefix("-")
        function, less = _imported(path), metric.startswith("-")
    elif callable(metric):
        function, less = metric, False
        name = getattr(metric, "__qualname__", type(metric).__qualname__)
        path = f"{getattr(metric, '__module__', None) or '__main__'}:{name}"
    else:
        raise InputError(f"metric={metric!r}: expected a name such as accuracy, or a function")
    less = less or not getattr(function, "larger_is_better", True)
    return Metric(
        f"-{path}" if less else path, -1 if less else 1, share=False, mean=None, function=function,
        source=_source(function, path),
    )  # fmt: skip


def mean_of(values: NDArray[np.float64]) -> float:
    """The mean of values per example, or the one number that there is."""
    if values.ndim == 0:
        return float(values)
    return math.fsum(values) / len(values) if np.isfinite(values).all() else math.nan


def _imported(path: str) -> Any:
    module, _, names = path.partition(":")
    found = attribute(import_module(module, f"metric={path!r}"), names)
    if not callable(found):
        raise InputError(f"metric={path!r}: {module} has no function {names}")
    return found


def _source(function: Any, path: str) -> str:
    """SHA-256 (hex) of the source, with default arguments and what the function holds of the scope around it."""
    code = function if inspect.isroutine(function) or isinstance(function, type) else type(function)
    text = source_text(code, f"metric {path}")
    held = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    for value in (getattr(function, "__defaults__", None), held):
        text += f"\n{value!r}" if value else ""
    return fingerprint(text)


def _shapes(outputs: Tensor, targets: Tensor) -> str:
    return f"outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)}"
