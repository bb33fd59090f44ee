"""Metrics: what chips are judged by. One registry of built-in ones, and functions of a user's own."""

import functools
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossbar_sim.errors import InputError
from crossbar_sim.nn.evaluate import one_thread, torch_threads_kept
from crossbar_sim.robustness import metric_sums as of
from crossbar_sim.text import visible
from crossbar_sim.user_code import attribute, contents_of, fingerprint, import_module
from crossbar_sim.validate import unknown

Targets = Literal["classes", "real", "outputs", "boxes", "any"]

PER_CENT = "%"
"""The unit of scores that are shares of 1 and are shown in per cent."""

_DECLARED = "crossbar_metric"
"""The attribute in which `metric` keeps the declared unit, title and direction."""

_LESS = re.compile("loss|error|entropy|perplexity|distance|divergence|(?<![a-z])(nll|mae|n?r?mse)(?![a-z])")
"""In the names of functions of which less is better."""

_TOP = re.compile(r"top([1-9]\d{0,3})")


@dataclass(frozen=True)
class Metric:
    """A metric of chips: one entry of the registry.

    Args:
        name: as results files have it: a built-in name or `package.module:function`; with a minus sign before a
            function of which less is better, because such scores are stored with a minus sign.
        sign: 1 if more is better, -1 if less is.
        share: whether values lie in 0 .. 1.
        mean: whether it is a mean over examples, which some of them can estimate; None: known when it has run.
        task: the kind of model that it is for.
        function: a user's own, of outputs and targets.
        source: SHA-256 (hex) of the function's source; None for built-in metrics.
        unit: "%": shown in per cent; else what follows the number, such as "nats" or "K", or nothing.
        title: its name in sentences and on axes; empty: its import path.
        axis: what an axis says beside the title where that is not the unit.
        targets: what it compares outputs with: "classes", class numbers (n,) or (n, places...), of which negative ones
            are not judged; "real", numbers of the shape of the outputs; "outputs", those of the clean model; "boxes";
            "any".
        logarithm: statistics are of its natural logarithm, which is what is stored; it is shown by exp.
        sums, total: what is computed of a block, and of the sums over all blocks; None: `Reference.score` or
            `DetectionReference.score` computes it.
        easing: from a clean score, as shown, to the default threshold; None: there is none (of shares it is 5 points
            below the clean score).
        each: whether each place is right, (b, places...) bool of outputs and targets, where it is a mean over examples.
        masked: whether the function takes a mask, True where a target is judged, as its third argument.
        undeclared: whether nothing says that more is better, which is assumed of a function then.
    """

    name: str
    sign: int = 1
    share: bool = True
    mean: bool | None = False
    task: str = "classification"
    function: Callable[..., Any] | None = None
    source: str | None = None
    unit: str = PER_CENT
    title: str = ""
    axis: str = ""
    targets: Targets = "classes"
    logarithm: bool = False
    sums: of.Sums | None = None
    total: of.Total | None = None
    easing: Callable[[float], float] | None = None
    each: Callable[[Tensor, Tensor], Tensor] | None = None
    masked: bool = False
    undeclared: bool = False

    @property
    def doubt(self) -> str | None:
        """A sentence on a function whose name suggests that less is better, where nothing says so; else None."""
        if not self.undeclared or _LESS.search(self.name.rpartition(":")[2].lower()) is None:
            return None
        return (
            f"metric {self.name}: more is taken to be better, and its name suggests the contrary: write a minus sign "
            "before its path, or declare it with the decorator crossbar_sim.metric"
        )

    def __repr__(self) -> str:
        # part of what names the trainings of experiments
        return self.name if self.source is None else f"{self.name} (source {self.source})"

    @property
    def identity(self) -> dict[str, str]:
        """What a task's identity holds beside the name; empty for built-in metrics."""
        return {} if self.source is None else {"metric_source": self.source}

    @property
    def about(self) -> dict[str, str]:
        """What a report needs to know of a user's own metric; empty for built-in ones."""
        if self.function is None:
            return {}
        return {name: value for name in ("unit", "title") if (value := str(getattr(self, name)))}

    @property
    def computed(self) -> bool:
        """Whether it is computed from outputs and targets alone, and is no field of a `Score`."""
        return self.function is not None or self.sums is not None

    @property
    def accumulates(self) -> bool:
        """Whether it is a torchmetrics metric, which gives one number for all blocks that it has seen."""
        return _torchmetric(self.function) is not None

    @property
    def streams(self) -> bool:
        """Whether it needs no more than one block of outputs at a time."""
        return self.sums is not None

    def stored(self, value: float) -> float:
        """The score that statistics are about, more being better, of a value as shown."""
        if self.logarithm:
            return self.sign * (math.log(value) if value > 0 else -math.inf)
        return self.sign * value

    def shown(self, score: float) -> float:
        """A stored score as people read it."""
        value = self.sign * score
        if not self.logarithm:
            return value + 0.0  # no minus zero
        return math.exp(value) if value < 709 else math.inf

    @property
    def bounds(self) -> tuple[float, float]:
        """What values as shown can be; infinite where nothing is known."""
        if self.share or self.targets == "any":
            return (0.0, 1.0) if self.share else (-math.inf, math.inf)
        if self.sign < 0:
            return (1.0 if self.logarithm else 0.0), math.inf
        return -math.inf, 1.0 if self.name == "r2" else math.inf

    def cut(self, low: float, high: float, value: float) -> tuple[float, float]:
        """The ends of an interval of `value`, all as shown, cut where no value can be (docs/statistics.md)."""
        least, most = self.bounds
        return (max(low, least), min(high, most)) if least <= value <= most else (low, high)

    def check_threshold(self, threshold: float) -> None:
        """Refuse a threshold, as shown, that no score can have.

        Raises:
            InputError: with the value and the allowed range.
        """
        unbounded = self.targets == "any" or (self.sign > 0 and not self.share)
        if not (-math.inf if unbounded else 0) <= threshold < math.inf or math.isinf(threshold):
            raise InputError(f"threshold={threshold}: expected a score such as 0.9")
        if self.logarithm and threshold < 1:
            raise InputError(f"threshold={threshold}: a perplexity is 1 or more")
        if threshold > 1 and self.share:
            raise InputError(f"threshold={threshold}: {self.name} is a share in 0 .. 1, such as 0.9 for 90 %")

    def part(self, outputs: Tensor, targets: Tensor, mask: Tensor | None) -> Any:
        """What is kept of a block of examples.

        Args:
            outputs: (b, ...), classes on the second axis; outputs of a chip may be infinite or NaN.
            targets: (b, ...), on the same device.
            mask: (b, ...) bool, True where a target is judged; None: everywhere.

        Raises:
            InputError: if outputs and targets are not what it takes.
        """
        if self.sums is not None:
            return self.sums(outputs, targets)
        found = _torchmetric(self.function)
        outputs, targets = outputs.cpu(), targets.cpu()
        outputs = _like(outputs, targets)
        if found is None:
            return outputs.clone()
        with torch.no_grad():
            block = found.clone()
            self._called(block.update, outputs, targets)
        return block

    def whole(self, parts: Sequence[Any], targets: Tensor, mask: Tensor | None) -> float:
        """The score, of the parts of all blocks in the order of the examples; of a logarithm metric its logarithm.

        Raises:
            InputError: if the function fails or returns anything else than it should.
        """
        if self.sums is not None:
            assert self.total is not None
            return self.total(of.in_order(parts), targets)
        if _torchmetric(self.function) is None:
            return self.value(torch.cat(list(parts)), targets.cpu(), None if mask is None else mask.cpu())
        first, *rest = parts
        for part in rest:
            first.merge_state(part)
        found = self._number(self._called(first.compute), "the metric")
        if found.shape != ():
            raise InputError(
                f"metric {self.name} returned shape {tuple(found.shape)}: expected one number; give its average= "
                "or reduction="
            )
        return float(found)

    def evaluate(self, outputs: Tensor, targets: Tensor, mask: Tensor | None = None) -> NDArray[np.float64]:
        """The values of the function: shape () for one number, (n,) for one number per example.

        Args:
            outputs: (n, ...), classes on the second axis, on the CPU; outputs of a chip may be infinite or NaN.
            targets: (n, ...) labels or numbers; where the data have none, the outputs of the clean model.
            mask: True where a target is judged; None: everywhere.

        Raises:
            InputError: if the function fails or returns anything else.
        """
        assert self.function is not None
        outputs = _like(outputs, targets)
        if self.masked:
            judged = torch.ones_like(targets, dtype=torch.bool) if mask is None else mask.clone()
            answer = self._called(self.function, outputs.clone(), targets.clone(), judged)
        else:
            answer = self._called(self.function, outputs.clone(), targets.clone())
        found = self._number(answer, _shapes(outputs, targets))
        if found.shape not in ((), (len(outputs),)):
            raise InputError(
                f"metric {self.name} returned shape {tuple(found.shape)} for {_shapes(outputs, targets)}: expected one "
                f"number, or one per example ({len(outputs)},)"
            )
        return found

    def value(self, outputs: Tensor, targets: Tensor, mask: Tensor | None = None) -> float:
        """One number: that of the function, or the mean over examples."""
        return mean_of(self.evaluate(outputs, targets, mask))

    def _called(self, function: Callable[..., Any], *given: Tensor) -> Any:
        """What the user's code returns; its errors become an InputError."""
        with torch_threads_kept(), torch.no_grad():
            one_thread()  # the order of sums must not depend on the number of threads
            try:
                return function(*given)
            except (Exception, SystemExit) as error:  # of the user's own code
                why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                on = f" on {_shapes(*given[:2])}" if len(given) > 1 else ""
                raise InputError(f"metric {self.name} failed{on}: {why}") from error

    def _number(self, answer: Any, on: str) -> NDArray[np.float64]:
        """The real numbers that user's code returned."""
        try:
            found = torch.as_tensor(answer).detach().cpu()
        except (TypeError, ValueError, RuntimeError):
            kind = f"the text {visible(answer)[:40]!r}" if isinstance(answer, str) else type(answer).__name__
            raise InputError(
                f"metric {self.name} returned {kind} for {on}: expected one number, or one per example"
            ) from None
        if found.is_complex():
            raise InputError(
                f"metric {self.name} returned complex numbers for {on}: expected real ones; take their abs()"
            )
        numbers: NDArray[np.float64] = found.double().numpy()
        return numbers

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


def _relative(clean: float) -> float:
    """10 % above the clean score, to three digits."""
    return float(f"{1.1 * clean:.3g}")


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", mean=True, title="accuracy"),
        Metric("agreement", mean=True, title="agreement with the clean model", targets="outputs"),
        Metric("output_error", sign=-1, share=False, title="relative output error", targets="outputs"),
        Metric("map", task="detection", title="mAP@[.5:.95]", targets="boxes"),
        Metric("map50", task="detection", title="mAP@.5", targets="boxes"),
        Metric(
            "top5", mean=True, title="top-5 accuracy", sums=of.hits(5), total=of.mean, each=of.in_first(5)
        ),
        Metric("f1", title="macro F1", sums=of.class_counts, total=of.macro_f1),
        Metric("miou", title="mean IoU", sums=of.class_counts, total=of.mean_iou),
        Metric(
            "cross-entropy", sign=-1, share=False, unit="nats", title="cross-entropy", sums=of.nats, total=of.mean,
            easing=lambda clean: float(f"{clean + 0.1:.3g}"),
        ),
        Metric(
            "perplexity", sign=-1, share=False, unit="", title="perplexity", logarithm=True, sums=of.nats,
            total=of.mean, easing=_relative,
        ),
        Metric(
            "rmse", sign=-1, share=False, unit="", title="RMSE", axis="unit of the targets", targets="real",
            sums=of.errors(2), total=of.root, easing=_relative,
        ),
        Metric(
            "mae", sign=-1, share=False, unit="", title="mean absolute error", axis="unit of the targets",
            targets="real", sums=of.errors(1), total=of.mean, easing=_relative,
        ),
        Metric(
            "r2", share=False, unit="", title="R²", targets="real", sums=of.residuals, total=of.determination,
            easing=lambda clean: round(clean - 0.05, 3),
        ),
    )
}  # fmt: skip
"""The built-in metrics: a new one is one entry. The first five are fields of scores, the others sums over blocks."""


def names_of(task: str) -> tuple[str, ...]:
    """The built-in metrics of a task."""
    return tuple(name for name, metric in METRICS.items() if metric.task == task)


def names_code(metric: object) -> bool:
    """Whether the name of a metric is an import path."""
    return isinstance(metric, str) and ":" in metric


def built_in(name: object) -> Metric | None:
    """The built-in metric of a name, top-k for any k; None: there is none."""
    if not isinstance(name, str):
        return None
    top = _TOP.fullmatch(name)
    if top is None or name in METRICS:
        return METRICS.get(name)
    k = int(top[1])
    return replace(
        METRICS["top5"], name=name, title=f"top-{k} accuracy", sums=of.hits(k), each=of.in_first(k)
    )


def described(name: str, about: Mapping[str, Any] | None = None) -> Metric:
    """A metric as a report needs it, from its name and from what its task says of it; its function is not imported."""
    known = built_in(name)
    if known is not None:
        return known
    declared = {key: str(value) for key, value in (about or {}).items() if key in ("unit", "title")}
    unit = declared.get("unit", "")
    sign = -1 if name.startswith("-") else 1
    title = declared.get("title") or visible(name.removeprefix("-"))
    return Metric(name, sign, share=unit == PER_CENT, unit=unit, title=title, targets="any")


def is_share(name: str) -> bool:
    """Whether a metric is known to lie in 0 .. 1."""
    return described(name).share


def check_name(metric: object) -> None:
    """Refuse a name that is neither built in nor an import path.

    Raises:
        InputError: with the most similar name.
    """
    if built_in(metric) is None and not names_code(metric):
        raise InputError(f"{unknown('metric', metric, METRICS)}, or package.module:function")


def metric(
    function: Any = None,
    *,
    higher_is_better: bool = True,
    unit: str = "",
    title: str = "",
) -> Any:
    """Declare how a function, or a torchmetrics class, is to be read as a metric: a decorator.

    Args:
        function: of outputs and targets (and a mask), see `find_metric`.
        higher_is_better: whether more is better.
        unit: what follows the number in reports, such as "K"; "%" for shares in 0 .. 1, which are shown in per cent.
        title: its name in reports; empty: its import path.

    Raises:
        InputError: if a declaration is not of its type.

    >>> @metric(higher_is_better=False, unit="K")
    ... def error(outputs, targets):
    ...     return (outputs - targets).abs().mean()
    """
    if not isinstance(higher_is_better, bool):
        raise InputError(f"metric: higher_is_better={higher_is_better!r}: expected True or False")
    for name, value in (("unit", unit), ("title", title)):
        if not isinstance(value, str) or len(value) > 80 or value != visible(value):
            raise InputError(f"metric: {name}={value!r}: expected a short text")

    def declare(found: Any) -> Any:
        setattr(
            found,
            _DECLARED,
            {"higher_is_better": higher_is_better, "unit": unit.strip(), "title": title.strip()},
        )
        return found

    return declare if function is None else declare(function)


def find_metric(metric: Any) -> Metric:
    """A metric by its name or import path, or of a function.

    A function is called with outputs (n, ...) and targets, and with a mask where it has a third parameter: True where a
    target is judged. It returns one number, or one per example, of which the mean counts. A torchmetrics metric, as an
    instance or as a class that needs no arguments, is updated with the outputs and targets of block after block.
    More is better, unless the decorator `metric`, the attribute `larger_is_better = False` or torchmetrics'
    `higher_is_better` says otherwise, the import path has a minus sign before it, or it is one of torch's own losses.

    Args:
        metric: a key of METRICS, `top` and a number, `package.module:function` (its module is imported, which runs its
            code), a function, or a torchmetrics metric.

    Raises:
        InputError: if there is no such metric, or the source of the function cannot be read.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        check_name(metric)
        if (found := built_in(metric)) is not None:
            return found
        path = metric.removeprefix("-")
        function, less = _imported(path), metric.startswith("-")
    elif callable(metric):
        function, less = metric, False
        named = metric.func if isinstance(metric, functools.partial) else metric
        name = getattr(named, "__qualname__", type(named).__qualname__)
        path = f"{getattr(named, '__module__', None) or '__main__'}:{name}"
    else:
        raise InputError(f"metric={metric!r}: expected a name such as accuracy, or a function")
    declared = getattr(function, _DECLARED, {})
    less = less or _torch_loss(function)
    known = less or bool(declared) or hasattr(function, "larger_is_better")
    if _torchmetric(function, path) is not None and not declared and not less:
        higher = getattr(function, "higher_is_better", None)
        if higher is None:
            raise InputError(
                f"metric {path} does not say whether more is better: set its attribute higher_is_better, or write a "
                "minus sign before the path if less is"
            )
        less, known = not higher, True
    less = (
        less or not getattr(function, "larger_is_better", True) or not declared.get("higher_is_better", True)
    )
    unit = declared.get("unit", "")
    return Metric(
        f"-{path}" if less else path, -1 if less else 1, share=unit == PER_CENT, mean=None, function=function,
        source=_source(function, path), unit=unit, title=declared.get("title", ""), targets="any",
        masked=_takes_mask(function), undeclared=not known,
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


def _torchmetric(function: Any, path: str = "") -> Any:
    """The torchmetrics metric that a function is, reset, or that its class makes; None: it is none."""
    library = sys.modules.get("torchmetrics")  # of whoever has such a metric, it is imported
    kind: Any = getattr(library, "Metric", None)
    if function is None or kind is None:
        return None
    if isinstance(function, kind):
        return function
    if not (isinstance(function, type) and issubclass(function, kind)):
        return None
    try:
        return function()
    except Exception as error:  # it needs arguments
        why = " ".join(f"{error}".split())[:120]
        raise InputError(
            f"metric {path or function.__name__} cannot be made without arguments ({why}): name an instance of it in "
            f"a file of yours, such as mine = {function.__name__}(...)"
        ) from None


def _torch_loss(function: Any) -> bool:
    """Whether this is one of torch's losses, of which less is better."""
    name = getattr(function, "__name__", "")
    own = getattr(function, "__module__", "") == "torch.nn.functional"
    return isinstance(function, nn.modules.loss._Loss) or (own and name.endswith(("loss", "entropy")))


def _takes_mask(function: Any) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len([p for p in positional if p.default is p.empty]) == 3 or any(
        p.name == "mask" for p in positional[2:3]
    )


def _source(function: Any, path: str) -> str:
    """SHA-256 (hex) of the source, with default arguments and what the function holds of the scope around it."""
    return fingerprint(contents_of(function, f"metric {path}"))


def _like(outputs: Tensor, targets: Tensor) -> Tensor:
    """Outputs (n, 1) as (n,) for real targets (n,), and the like: their difference would be an (n, n) table."""
    if targets.is_floating_point() and outputs.shape != targets.shape:
        sides = [[side for side in t.shape[1:] if side != 1] for t in (outputs, targets)]
        if sides[0] == sides[1] and len(outputs) == len(targets):
            return outputs.reshape(targets.shape)
    return outputs


def _shapes(outputs: Tensor, targets: Tensor) -> str:
    return f"outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)}"
