"""Digital calibration of each chip, fitted to a few images that are run on it.

Training knows only the distribution of chips; a given chip can be measured. These corrections need no reprogramming,
only a little digital arithmetic behind the arrays: `statistics` (see `NormStatistics`), `affine` (see `Affine`),
corrections of low rank (see `low_rank`) and `readout` (see `Readout`).
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from crossbar_sim.data import Development, Split, Splits, load_data
from crossbar_sim.data.inputs import Batch, call
from crossbar_sim.data.load import to_development
from crossbar_sim.errors import InputError
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog import chips as analog_chips
from crossbar_sim.nn.analog.copying import base_of
from crossbar_sim.nn.analog.layers import InPlace
from crossbar_sim.nn.evaluate import (
    BLOCK,
    answer_of,
    inputs_for,
    one_thread,
    outputs,
    run_over,
    torch_threads_kept,
)
from crossbar_sim.nn.networks.coded import Coded
from crossbar_sim.nn.seeding import permutation
from crossbar_sim.rng import Key
from crossbar_sim.robustness.low_rank import HELD_OUT, VARIANTS, LowRank
from crossbar_sim.validate import is_int, unknown

# The statistics of normalisations: means and variances that the clean network had, estimated again on the chip.
#
# A batch normalisation divides by the spread that its inputs had in training. On a chip they have another, and all
# layers behind take what is too large or too small. The statistics are digital numbers: a chip can have its own.


_STATISTICS: dict[Any, bool] = {
    **dict.fromkeys(
        (F.batch_norm, torch.batch_norm, torch.ops.aten.batch_norm.default,
         torch.ops.aten._native_batch_norm_legit_no_training.default),
        False,
    ),
    **dict.fromkeys((F.instance_norm, torch.instance_norm, torch.ops.aten.instance_norm.default), True),
}  # fmt: skip
"""Normalisations with running statistics, by what calls them; whether the statistics are those of single examples."""

_SCHEMA = ("input", "weight", "bias", "running_mean", "running_var")
_FUNCTIONAL = ("input", "running_mean", "running_var", "weight", "bias")

NORM_BATCH = 100
"""Images of a batch at most: the estimate is the mean over batches of nearly equal size."""


class _Norms(TorchFunctionMode):
    """Context in which normalisations use the statistics of their batch, and their mean over batches is kept.

    Args:
        known: ids of the model's buffers.
    """

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known = known
        self.sums: dict[int, Tensor] = {}
        self.counts: dict[int, int] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`, with the statistics of its inputs where it has running ones."""
        alone = _STATISTICS.get(func)
        if alone is None:
            return func(*args, **(kwargs or {}))
        names = _FUNCTIONAL if func in (F.batch_norm, F.instance_norm) else _SCHEMA
        named = dict(zip(names, args, strict=False)) | (kwargs or {})
        if not {id(named.get("running_mean")), id(named.get("running_var"))} <= self.known:
            return func(*args, **(kwargs or {}))
        rest = {key: value for key, value in (kwargs or {}).items() if key not in names}
        x = named["input"].float()
        n = math.prod(x.shape[2:]) * (1 if alone else len(x))
        if n < 2:
            raise InputError(
                "statistics: a normalisation sees one value per channel at a time, which has no variance: calibrate "
                "with affine"
            )
        inner = tuple(range(2, x.dim()))
        var, mean = torch.var_mean(x, inner if alone else (0, *inner), correction=0)
        if alone:
            var, mean = var.mean(0), mean.mean(0)
        for name, value in (("running_mean", mean), ("running_var", var)):
            place = id(named[name])
            own = value.double() * (n / (n - 1) if name == "running_var" else 1.0)
            self.sums[place] = self.sums.get(place, torch.zeros_like(own)) + len(x) * own
            self.counts[place] = self.counts.get(place, 0) + len(x)
            named[name] = value.to(named[name].dtype)
        return func(*(named.get(name) for name in names), *args[len(names) :], **rest)


@dataclass(frozen=True)
class NormStatistics:
    """Running statistics of normalisations, estimated for each chip without labels.

    Args:
        words: how many numbers they are.
        fixed: the one batch size that the model accepts, if there is one.
    """

    words: int
    fixed: int | None = None

    @classmethod
    def of(cls, analog: nn.Module, x: Batch, fixed: int | None = None) -> "NormStatistics":
        """Find the statistics that a forward uses.

        Args:
            analog: on some chip.
            x: images.
            fixed: see the class.

        Raises:
            InputError: if it uses none.
        """
        found = _estimated(analog, x[: fixed or 4], fixed)
        if not found:
            raise InputError(
                f"{base_of(analog).__name__} has no batch or instance normalisation with running statistics beside its "
                "arrays (a folded one is part of its layer's weights): calibrate with affine or readout"
            )
        return cls(sum(t.numel() for t in found.values()), fixed)

    @contextmanager
    def fitted(self, analog: nn.Module, x: Batch) -> Iterator[nn.Module]:
        """Context in which the model has the statistics of its current chip, estimated on x."""
        found = _estimated(analog, x, self.fixed)
        changed = [
            (module, name, buffer)
            for module in analog.modules()
            for name, buffer in module._buffers.items()
            if id(buffer) in found
        ]
        try:
            for module, name, buffer in changed:  # the buffer itself is the clean model's too
                module._buffers[name] = found[id(buffer)]
            yield analog
        finally:
            for module, name, buffer in changed:
                module._buffers[name] = buffer


def _estimated(analog: nn.Module, x: Batch, fixed: int | None) -> dict[int, Tensor]:
    """The statistics of the model's buffers on x, by the ids of the buffers."""
    buffers = {id(b): b for b in analog.buffers()}
    block = -(-len(x) // -(-len(x) // NORM_BATCH))
    with chips.locked(analog), torch_threads_kept(), _Norms(set(buffers)) as norms:
        one_thread()
        run_over(analog, x, block, fixed)
    return {place: (total / norms.counts[place]).to(buffers[place]) for place, total in norms.sums.items()}


# The affine correction: after each layer on arrays, a digital scale and shift per channel.
#
# They are fitted by least squares to what the clean model computes there for the same images, layer after layer
# in the
# order of the forward, each with the corrections before it at work. Labels are not needed.


PLACES = 32
"""Pixels (or tokens) of an image that a fit looks at, evenly spaced. More would add little and cost memory."""

_CONVOLUTIONS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Affine:
    """The data of the clean model that are needed to correct any chip.

    Args:
        targets: layer -> (values, channels) float32: its clean outputs at some places.
        products: outputs of all these layers per image: each is multiplied once.
    """

    targets: dict[str, Tensor]
    products: int

    @classmethod
    def of(cls, clean: nn.Module, x: Batch) -> "Affine":
        """Run the images through a model without hardware.

        Args:
            clean: analog, with no layer on its arrays: normalisation may be folded into its layers.
            x: (n, ...) images, run as one batch.

        Raises:
            InputError: if no layer on arrays is a module that the forward calls.
        """
        targets: dict[str, Tensor] = {}
        sizes: dict[str, int] = {}

        def look(name: str, module: nn.Module, y: Tensor) -> Tensor:
            if name not in targets:
                targets[name] = _places(module, y).cpu().clone()
            sizes[name] = sizes.get(name, 0) + y.numel() // len(x)
            return y

        with _hooks(clean, look):
            outputs(clean, x, len(x))
        if not targets:
            raise InputError(
                f"{type(clean).__name__} calls none of its layers as modules (an exported graph calls operators), so "
                "there is nowhere to correct them: calibrate with kind='readout'"
            )
        return cls(targets, sum(sizes.values()))

    @property
    def channels(self) -> int:
        """How many scales, and how many shifts."""
        return sum(target.shape[1] for target in self.targets.values())

    @contextmanager
    def fitted(self, analog: nn.Module, x: Batch) -> Iterator[nn.Module]:
        """Context in which the model's layers are corrected for its current chip.

        Args:
            analog: programmed.
            x: the images that the targets are of.
        """
        found: dict[str, tuple[Tensor, Tensor]] = {}

        def correct(name: str, module: nn.Module, y: Tensor) -> Tensor:
            if name not in found:  # the first call, with all images: later ones only read
                scale, shift = least_squares(_places(module, y).cpu(), self.targets[name])
                found[name] = (scale.to(y), shift.to(y))
            scale, shift = found[name]
            shape = [1] * y.dim()
            shape[_channel(module, y)] = -1
            return y * scale.view(shape) + shift.view(shape)

        with _hooks(analog, correct):
            outputs(analog, x, len(x))
            yield analog


def least_squares(y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift per channel that take y nearest to target.

    Args:
        y, target: (values, channels).

    Returns:
        (channels,) each, float32, finite: 0 and the target's mean where a channel never changes.
    """
    a, b = y.double(), target.double()
    mean, wanted = a.mean(0), b.mean(0)
    spread = (a - mean).square().mean(0)
    scale = ((a - mean) * (b - wanted)).mean(0) / spread
    # what rounding alone makes of a constant channel is no signal
    usable = scale.isfinite() & (spread > 1e-12 * a.square().mean(0))
    scale = torch.where(usable, scale, torch.zeros_like(scale))
    shift = wanted - torch.where(usable, scale * mean, torch.zeros_like(mean))
    return scale.float(), shift.float()


def _channel(module: nn.Module, y: Tensor) -> int:
    """Which dimension of a layer's output counts its channels: bit lines."""
    spatial = isinstance(module, _CONVOLUTIONS)
    return 1 if spatial and y.dim() > 2 else y.dim() - 1


def _places(module: nn.Module, y: Tensor) -> Tensor:
    """Outputs (b, ...) as (values, channels), at most `PLACES` values per image."""
    rows = y.movedim(_channel(module, y), -1)
    rows = rows.reshape(len(y), -1, rows.shape[-1])
    if rows.shape[1] > PLACES:
        chosen = torch.arange(PLACES, device=y.device) * rows.shape[1] // PLACES
        rows = rows[:, chosen]
    return rows.reshape(-1, rows.shape[-1]).float()


@contextmanager
def _hooks(model: nn.Module, change: Any) -> Iterator[None]:
    """Context in which change(layer, module, output) replaces the output of each layer on arrays."""
    # a model that is one layer is called by its class there
    inner = model.original if isinstance(model, InPlace) else model
    modules = {base_of(inner).__name__: inner, **dict(inner.named_modules())}
    handles = []

    def hooked(name: str) -> Any:
        def hook(module: nn.Module, args: Any, y: Any) -> Any:
            if isinstance(y, Tensor):
                return change(name, module, y)
            return (
                change(name, module, y[0]),
                *y[1:],
            )  # attention and recurrent layers give more than outputs

        return hook

    try:
        for layer in chips.layers(model):
            if layer.analog and layer.name in modules:
                handles.append(modules[layer.name].register_forward_hook(hooked(layer.name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


# The read-out refit: the last linear layer, kept digital, is fitted to the features that each chip computes.
#
# Drift in the layers before moves and stretches the features, but for small networks leaves most of what they
# know: a
# linear layer that has seen some of a chip's own features reads them again. It is multinomial logistic
# regression with
# a Gaussian prior around the clean layer's weights, which a chip of little drift hardly leaves. How much the clean
# weights are worth on this chip is estimated first: they are scaled by the temperature that fits its images best,
# almost 1
# at no drift and almost 0 where drift has left nothing of them.


STRENGTH = 3.0
"""Of the prior, as the inverse variance of a weight per standardised feature. Chosen on MNIST's validation images:
0.3 to 30 differ by less than a point up to sigma 1.2, see docs/methods.md."""

_BIAS = 0.01
"""A bias is held so much less than a weight."""

_STEPS, _INNER, _TOLERANCE = 40, 60, 1e-4


class _Tap(TorchFunctionMode):
    """Context that records the last product of a linear layer (this thread only)."""

    def __init__(self) -> None:
        super().__init__()
        self.last: tuple[Tensor, Tensor, Tensor | None, Tensor] | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`, and keep input, weight, bias and output of a linear layer."""
        y = func(*args, **(kwargs or {}))
        if func in (F.linear, torch.ops.aten.linear.default):
            named = dict(zip(("input", "weight", "bias"), args, strict=False)) | (kwargs or {})
            self.last = (named["input"], named["weight"], named.get("bias"), y)
        return y


class _Features(nn.Module):
    """A model that stops before its last linear layer: (b, ...) to features (b, f)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.training = model, False

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The input of the last linear layer."""
        with _Tap() as tap:
            self.model(*args, **kwargs)
        assert tap.last is not None
        return tap.last[0]


class Refitted(_Features):
    """A programmed model whose last linear layer is digital, with weights fitted to this chip.

    Args:
        model: analog, on its chip.
        weight, bias: (classes, f) and (classes,).
    """

    def __init__(self, model: nn.Module, weight: Tensor, bias: Tensor) -> None:
        super().__init__(model)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Map (b, ...) to logits (b, classes)."""
        weight: Any = self.weight
        bias: Any = self.bias
        return F.linear(super().forward(*args, **kwargs), weight, bias)


@dataclass(frozen=True, eq=False)
class Readout:
    """The data of the clean model that are needed to refit the last layer for any chip.

    Args:
        classes, features: of the layer.
        weight, bias: its clean values (classes, features) and (classes,), the centre of the prior.
    """

    classes: int
    features: int
    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, clean: nn.Module, x: Batch, fixed: int | None = None) -> "Readout":
        """Find the last linear layer of a model.

        Args:
            clean: computes without hardware.
            x: some images; a batch of the model's fixed size, if it has one.

        Raises:
            InputError: if the model does not end in a linear layer of one row of features per image.
        """
        few = x[: fixed or 2].clone()  # the forward may write to it
        with torch.inference_mode(), _Tap() as tap:
            y = answer_of(call(clean, few))
        name = type(clean).__name__
        if tap.last is None:
            raise InputError(f"{name} has no linear layer to refit: calibrate with kind='affine'")
        features, weight, bias, last = tap.last
        codes = clean.codes if isinstance(clean, Coded) else None
        if codes is None and not (isinstance(y, Tensor) and torch.equal(y, last)):
            raise InputError(
                f"the outputs of {name} are not those of its last linear layer, which could be refitted: "
                "calibrate with kind='affine'"
            )
        if features.dim() != 2:
            raise InputError(
                f"the last linear layer takes inputs of shape {tuple(features.shape)}: a refit needs one row of "
                "features per image"
            )
        centre, shift = weight, torch.zeros(len(weight)) if bias is None else bias
        if (
            codes is not None
        ):  # a score is the sum of the outputs that the code word has, up to what all classes share
            centre, shift = codes @ weight, codes @ shift.to(weight)
        return cls(
            len(centre), int(features.shape[1]), centre.detach().cpu().clone(), shift.detach().cpu().clone()
        )

    def fit(self, analog: nn.Module, x: Batch, y: Tensor, fixed: int | None = None) -> Refitted:
        """The model with its last layer fitted to images that are run on its current chip.

        Raises:
            InputError: if a feature is not finite.
        """
        features = torch.cat(outputs(_Features(analog), x, BLOCK, fixed))
        if not features.isfinite().all():
            raise InputError(
                "the features of this chip are not finite: nothing can be fitted to them; lower sigma"
            )
        before = torch.get_num_threads()
        torch.set_num_threads(1)  # several threads would change the order of sums
        try:
            weight, bias = refit(features.cpu(), y.cpu(), self)
        finally:
            torch.set_num_threads(before)
        return Refitted(analog, weight.to(features.device), bias.to(features.device))


def refit(features: Tensor, y: Tensor, prior: Readout) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression around a prior, by Newton's method with conjugate gradients.

    Minimises sum_i -ln softmax(z_i W)[y_i] + sum r (W - W_0)^2 / 2 over W, with standardised features z and a last
    one for the bias. Convex, so the end does not depend on the way.

    Args:
        features: (n, f); y: (n,) int64.
        prior: the clean layer.

    Returns:
        Weight (classes, f) and bias (classes,) for unscaled features, float32.
    """
    x = features.double()
    mean, deviation = x.mean(0), x.std(0, correction=0)
    largest = deviation.max().clamp_min(1e-30)
    # A feature that is constant here carries no information: it must not get a large weight for other images.
    deviation = torch.where(deviation > 1e-6 * largest, deviation, largest)
    z = torch.cat([(x - mean) / deviation, x.new_ones(len(x), 1)], 1)
    onehot = F.one_hot(y, prior.classes).double()
    weight = prior.weight.double()
    centre = torch.cat([(weight * deviation).T, (weight @ mean + prior.bias.double())[None]])
    centre *= _temperature(z @ centre, onehot)
    rates = z.new_full((z.shape[1], 1), STRENGTH)
    rates[-1] *= _BIAS
    found = _newton(z, onehot, centre, rates)
    scaled = found[:-1] / deviation[:, None]
    return scaled.T.float().contiguous(), (found[-1] - mean @ scaled).float()


def _temperature(logits: Tensor, onehot: Tensor) -> float:
    """The t >= 0 that minimises the cross-entropy of t * logits: convex, by Newton's method kept to factors of 2."""
    t = 1 / max(1.0, float(logits.std()))
    for _ in range(60):
        p = torch.softmax(t * logits, 1)
        slope = float(((p - onehot) * logits).sum())
        curvature = float((p * logits.square()).sum() - (p * logits).sum(1).square().sum())
        new = min(max(t - slope / max(curvature, 1e-30), t / 2), 2 * t)
        if abs(new - t) <= 1e-4 * t:
            return new
        t = new
    return t


def _newton(z: Tensor, onehot: Tensor, centre: Tensor, rates: Tensor) -> Tensor:
    """The minimum of the cost in `refit`: z (n, p), onehot (n, k), centre (p, k), rates (p, 1) -> (p, k)."""

    def cost(w: Tensor) -> float:
        logits = z @ w
        entropy = torch.logsumexp(logits, 1).sum() - (logits * onehot).sum()
        return float(entropy + 0.5 * (rates * (w - centre).square()).sum())

    w, at = centre.clone(), cost(centre)
    squares = z.square().T
    first: float | None = None
    for _ in range(_STEPS):
        p = torch.softmax(z @ w, 1)
        gradient = z.T @ (p - onehot) + rates * (w - centre)
        norm = float(gradient.norm())
        first = norm if first is None else first
        if norm <= _TOLERANCE * len(z):
            break
        step = _conjugate(
            z, p, rates, gradient, squares @ (p * (1 - p)) + rates, min(0.3, (norm / first) ** 0.5)
        )
        along, share = float((gradient * step).sum()), 1.0
        while share > 1e-6 and cost(w + share * step) > at + 1e-4 * share * along:
            share /= 2
        w = w + share * step
        at = cost(w)
    return w


def _conjugate(
    z: Tensor, p: Tensor, rates: Tensor, gradient: Tensor, diagonal: Tensor, enough: float
) -> Tensor:
    """Approximately -H^-1 gradient: conjugate gradients, preconditioned by the diagonal of the Hessian H."""
    step, left = torch.zeros_like(gradient), -gradient
    scaled = left / diagonal
    way, power = scaled, (left * scaled).sum()
    stop = enough * float(gradient.norm())
    for _ in range(_INNER):
        along = z @ way
        turned = p * along
        bent = z.T @ (turned - p * turned.sum(1, keepdim=True)) + rates * way
        share = power / (way * bent).sum()
        step, left = step + share * way, left - share * bent
        if float(left.norm()) <= stop:
            break
        scaled = left / diagonal
        fresh = (left * scaled).sum()
        way, power = scaled + fresh / power * way, fresh
    return step


PARTS = ("statistics", "affine", *VARIANTS, "readout")
"""What a calibration is put together from, in the order in which it is fitted."""

KINDS = (*PARTS, "both")

MOST_RANK = 4096

STREAM = "calibration images"
"""Below the seed: the name of the draw of images, the same for every chip and model."""


@dataclass(frozen=True)
class Calibration:
    """How each chip is calibrated.

    Args:
        kind: "statistics": running statistics of batch and instance normalisations are estimated again on the chip;
            "affine": a digital scale and shift per channel after each layer on arrays; "lora:rank=4", "dora:rank=4" or
            "vera:rank=64": a digital correction of low rank beside each array; "readout": the last linear layer is
            computed digitally, with weights fitted to the chip. Several with +, such as "statistics+lora:rank=2", are
            fitted in this order; "both" is affine+readout.
        images: training images that are run on each chip for it.

    Raises:
        InputError: if the kind is unknown, or there are fewer than two images (five for a correction of low rank).
    """

    kind: str = "readout"
    images: int = 500

    def __post_init__(self) -> None:
        found = parts_of(self.kind)
        words = [name if rank is None else f"{name}:rank={rank}" for name, rank in found.items()]
        object.__setattr__(self, "kind", "both" if words == ["affine", "readout"] else "+".join(words))
        least = HELD_OUT if set(VARIANTS) & set(found) else 2
        if not is_int(self.images) or self.images < least:
            raise InputError(f"calibration images={self.images!r}: an integer >= {least} is needed")

    @property
    def parts(self) -> dict[str, int | None]:
        """Its parts in their order, each with its rank if it has one."""
        return parts_of(self.kind)

    def draw(self, development: Development, seed: int = 0) -> Split:
        """The images: from the training split, stratified by class, the same for every chip.

        Where there is not one class for each image, every image is as likely as any other.

        Raises:
            InputError: if data with a test split is given, or there are too few training images, or no labels and the
                calibration needs them.
        """
        if not isinstance(development, Development):
            raise InputError(
                f"calibration takes Development (train and validation), not {type(development).__name__}: give "
                "data.development, so that no chip is calibrated on test images"
            )
        train = development.train
        labelled = train.y is not None and not train.y.is_floating_point()
        if not labelled and "readout" in self.parts:
            raise InputError("the training images have no labels of classes, and a readout is fitted to them")
        if len(train) < self.images:
            raise InputError(f"calibration images={self.images}, but there are {len(train)} training images")
        order = permutation(len(train), Key(seed).fold(STREAM))
        if train.y is not None and train.y.dim() == 1:
            order = order[torch.argsort(train.y[order], stable=True)]
        # every so many of a list sorted by class: each class as often as it is in the data
        chosen = order[torch.arange(self.images) * len(train) // self.images]
        return Split(train.x[chosen], None if train.y is None else train.y[chosen])

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a report or an identity."""
        return {"kind": self.kind, "images": self.images}


@dataclass(frozen=True)
class Cost:
    """The hardware that a calibration needs besides the arrays.

    Args:
        multiplications: digital ones per image.
        words: numbers to be kept per chip.
        images: run on the chip once.
    """

    multiplications: int
    words: int
    images: int

    def __str__(self) -> str:
        return (
            f"{self.multiplications:,} digital multiplications per image and {self.words:,} numbers per chip, fitted "
            f"to {self.images:,} training images that are run on it"
        )


@dataclass(frozen=True, eq=False)
class Calibrator:
    """The data for calibrating any chip of one model, made once and used for every chip. It can be pickled.

    Args:
        calibration: which.
        images: drawn.
        affine, readout, statistics, low_rank: what is known of the model for them; None: this correction is not used.
        fixed: the one batch size that the model accepts, if there is one.
        wanted: the clean model's outputs for the images, to which corrections of low rank are fitted.
        axis: of the classes in the outputs; None: they are no scores of classes.
        parameters: of the model.
        inputs: the images in the type that the model takes; None: as they are.
    """

    calibration: Calibration
    images: Split
    affine: Affine | None
    readout: Readout | None
    fixed: int | None = None
    statistics: NormStatistics | None = None
    low_rank: LowRank | None = None
    wanted: Tensor | None = None
    axis: int | None = None
    parameters: int = 0
    inputs: Batch | None = None

    @classmethod
    def of(
        cls,
        analog: nn.Module,
        calibration: Calibration,
        development: Development,
        seed: int = 0,
        fixed: int | None = None,
        axis: int | None = 1,
    ) -> "Calibrator":
        """Draw the images and run the clean model on them.

        Args:
            analog: of `to_analog`, in evaluation mode, whatever its chip.
            calibration: how.
            development: whose training images are drawn from: a test split has no way in.
            seed: of the draw.
            fixed: see `nn.evaluate.outputs`.
            axis: of the classes in the model's outputs; None: they are no scores of classes.

        Raises:
            InputError: if the model has no layer that can be calibrated like this, or `draw` refuses.
        """
        images, parts = calibration.draw(development, seed), calibration.parts
        x, _ = inputs_for(analog, images.x)  # tokens are kept as floats
        affine = readout = statistics = low_rank = wanted = None
        variants: list[Any] = [name for name in VARIANTS if name in parts]
        with analog_chips.only_layers(analog, ()):
            if "affine" in parts:
                affine = Affine.of(analog, x)
            if "readout" in parts:
                readout = _readout(analog, x, images.y, fixed)
            if variants:
                wanted = torch.cat([y.cpu() for y in outputs(analog, x, BLOCK, fixed)])
        if "statistics" in parts:
            statistics = NormStatistics.of(analog, x, fixed)
        for name in variants:
            rank = parts[name]
            assert rank is not None
            low_rank = LowRank.of(analog, x, name, rank, seed, fixed)
        parameters = sum(p.numel() for p in analog.parameters())
        return cls(
            calibration, images, affine, readout, fixed, statistics, low_rank, wanted, axis, parameters, x
        )

    @contextmanager
    def fitted(self, analog: nn.Module) -> Iterator[nn.Module]:
        """Context with a model that is calibrated for the current chip of `analog`.

        Neither the clean parameters nor the arrays change, and at the end nothing is left of it.
        """
        x, y = self.images.x if self.inputs is None else self.inputs, self.images.y
        with ExitStack() as stack:
            model = analog
            if self.statistics is not None:
                model = stack.enter_context(self.statistics.fitted(model, x))
            if self.affine is not None:
                model = stack.enter_context(self.affine.fitted(model, x))
            if self.low_rank is not None:
                model = self.low_rank.fit(model, x, self._loss())
            if self.readout is not None:
                assert y is not None
                model = self.readout.fit(model, x, y, self.fixed)
            yield model

    def _loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Of outputs and the numbers of their images: how far they are from those of the clean model.

        Cross-entropy with the clean model's probabilities where outputs are scores of classes, else the squared error.
        Places that have a negative label (-100: padding) do not count.
        """
        wanted, axis, y = self.wanted, self.axis, self.images.y
        assert wanted is not None
        real = y is not None and y.is_floating_point()
        if axis is None or real or wanted.dim() < 2 or wanted.shape[axis] < 2:
            scale = float(wanted.double().var(correction=0).clamp_min(1e-30))
            return lambda out, some: (out - wanted[some].to(out)).square().mean() / scale
        axis %= wanted.dim()
        judged = None if y is None or int(y.min()) >= 0 else y >= 0

        def loss(out: Tensor, some: Tensor) -> Tensor:
            clean = wanted[some].to(out).clamp(-1e4, 1e4)
            logs = torch.log_softmax(out.clamp(-1e4, 1e4), axis)
            each = -(torch.softmax(clean, axis) * logs).sum(axis)
            return each.mean() if judged is None else each[judged[some].to(out.device)].mean()

        return loss

    @property
    def cost(self) -> Cost:
        """What it takes."""
        products = words = 0
        if self.statistics is not None:
            words = self.statistics.words
        if self.affine is not None:
            products, words = products + self.affine.products, words + 2 * self.affine.channels
        if self.low_rank is not None:
            products, words = products + self.low_rank.multiplications, words + self.low_rank.words
        if self.readout is not None:
            weights = self.readout.classes * self.readout.features
            products, words = products + weights, words + weights + self.readout.classes
        return Cost(products, words, self.calibration.images)

    @property
    def share(self) -> float | None:
        """The numbers kept per chip as a share of the model's parameters; None for affine and readout alone."""
        if self.statistics is None and self.low_rank is None:
            return None
        return self.cost.words / max(self.parameters, 1)

    def __str__(self) -> str:
        notes = f"{self.calibration.kind}: {self.cost}"
        return (
            notes if self.share is None else f"{notes} ({100 * self.share:.2f} % of the model's parameters)"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence on arrays that a correction of low rank leaves as they are."""
        if self.low_rank is None or not self.low_rank.left:
            return ()
        left = self.low_rank.left
        more = f" and {len(left) - 4} more" if len(left) > 4 else ""
        return (
            f"{', '.join(left[:4])}{more}: not corrected by {self.low_rank.variant}, for no linear layer or "
            "convolution multiplies with it",
        )


def _readout(analog: nn.Module, x: Batch, y: Tensor | None, fixed: int | None) -> Readout:
    readout = Readout.of(analog, x, fixed)
    assert y is not None
    top = int(y.max())
    if top >= readout.classes:
        raise InputError(
            f"labels go up to {top} but the model has {readout.classes} outputs: is this the data it was trained on?"
        )
    return readout


def parts_of(text: str) -> dict[str, int | None]:
    """The parts of a calibration in the order in which they are fitted, with the ranks of those that have one.

    >>> parts_of("readout+lora:rank=2")
    {'lora': 2, 'readout': None}

    Raises:
        InputError: for an unknown part, one that is given twice, two of low rank, or an impossible rank.
    """
    if not isinstance(text, str):
        raise InputError(f"calibration {text!r}: expected a text such as 'lora:rank=4'")
    found: dict[str, int | None] = {}
    for word in text.split("+"):
        name, colon, option = (piece.strip() for piece in word.partition(":"))
        if name not in KINDS:
            raise InputError(unknown("the calibration", name, KINDS))
        rank = VARIANTS.get(name)
        if colon:
            key, _, number = (piece.strip() for piece in option.partition("="))
            if rank is None or key != "rank" or not number.isdecimal() or not 1 <= int(number) <= MOST_RANK:
                ranks = f"lora, dora and vera take a rank of 1 to {MOST_RANK}, such as lora:rank=4"
                raise InputError(f"calibration {word.strip()!r}: {ranks}")
            rank = int(number)
        for part in ("affine", "readout") if name == "both" else (name,):
            if part in found:
                raise InputError(f"calibration {text!r}: {part} is given twice")
            found[part] = rank
    two = [name for name in VARIANTS if name in found]
    if len(two) > 1:
        raise InputError(
            f"calibration {text!r}: {' and '.join(two)} both correct every array: give one of them"
        )
    return {name: found[name] for name in PARTS if name in found}


def calibration_of(
    calibrate: str | Calibration | None, data: Any, examples: Any
) -> tuple[Calibration, Development] | None:
    """A calibration and the data whose training images it is fitted to, from the arguments of a user.

    Args:
        calibrate: the kind, or all settings; None: no calibration.
        data: for it: `Development`, {"train": ..., "validation": ...}, or a data set's name or path; None: the training
            images of `examples`.
        examples: what the model is scored on.

    Raises:
        InputError: if there are no training images, or data without calibrate.
    """
    if calibrate is None:
        if data is not None:
            raise InputError("calibration_data has no effect without calibrate: give calibrate='readout'")
        return None
    how = calibrate if isinstance(calibrate, Calibration) else Calibration(calibrate)
    if data is None and isinstance(examples, Splits):
        data = examples.development
    if data is None and isinstance(examples, str | os.PathLike):
        data = load_data(examples).development
    if data is None:
        raise InputError(
            f"calibrate={how.kind!r} fits each chip to training images, and the examples have none beside those that "
            "are scored: give calibration_data={'train': (x, y), 'validation': (x, y)}"
        )
    return how, to_development(data)
