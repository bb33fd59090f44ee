"""The read-out refit: the last linear layer, kept digital, is fitted to the features that each chip computes.

Drift in the layers before moves and stretches the features, but for small networks leaves most of what they know: a
linear layer that has seen some of a chip's own features reads them again. It is multinomial logistic regression with a
Gaussian prior around the clean layer's weights, which a chip of little drift hardly leaves. How much the clean weights
are worth on this chip is estimated first: they are scaled by the temperature that fits its images best, almost 1 at no
drift and almost 0 where drift has left nothing of them.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from crossbar_sim.data.inputs import Batch, call
from crossbar_sim.errors import InputError
from crossbar_sim.nn.evaluate import BLOCK, answer_of, one_thread, outputs, torch_threads_kept
from crossbar_sim.nn.networks.coded import Coded

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
        ):  # a score is the sum of the outputs of its code word, up to what all classes share
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
        with torch_threads_kept():
            one_thread()
            weight, bias = refit(features.cpu(), y.cpu(), self)
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
