"""Low-rank digital corrections beside the arrays, fitted to one chip by gradient descent: LoRA, DoRA and VeRA.

The arrays stay as they are. Beside the product of an array, W x, a digital product of low rank is computed from the
same inputs and added: the rank decides how many numbers a chip keeps. Of recurrent layers these are the products of
every step with the inputs and with the hidden state.

* `lora`: W x + B A x with A (rank, rows) and B (cols, rank) (Hu et al., arXiv 2106.09685).
* `dora`: s (W x + B A x) with s = m / |W + B A| for each column, and m trained too (Liu et al., arXiv 2402.09353),
  where W is what the chip holds. For memristors: Dong et al., arXiv 2504.03763.
* `vera`: W x + b B d A x, where A and B are random, the same for all chips and layers, and the vectors d (rank) and b
  (cols) are trained (Kopiczko et al., arXiv 2310.11454). For memristors: Dong et al., arXiv 2603.26016.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.data.inputs import Batch
from crossbar_sim.errors import InputError
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog.layers import arrays_of
from crossbar_sim.nn.analog.products import STEP_BY_STEP, OnTiles, attention_by_products, plain
from crossbar_sim.nn.analog.state import numbered_reads
from crossbar_sim.nn.evaluate import BLOCK, one_thread, output_of, run_over, torch_threads_kept
from crossbar_sim.nn.module_state import watched
from crossbar_sim.nn.seeding import permutation
from crossbar_sim.rng import Key

# The products of a forward with arrays, whatever calls them: modules, functions or the operators of an exported graph.


Kind = Literal["linear", "convolution", "transposed"]

_ATEN = torch.ops.aten
_CONVOLVE = (F.conv1d, F.conv2d, F.conv3d)
_ADDMM = (torch.addmm, _ATEN.addmm.default)
_KINDS: dict[Any, Kind] = {
    **dict.fromkeys(_ADDMM, "linear"),
    F.linear: "linear",
    _ATEN.linear.default: "linear",
    _ATEN.convolution.default: "convolution",
    **dict.fromkeys((*_CONVOLVE, torch.conv1d, torch.conv2d, torch.conv3d), "convolution"),
    **{getattr(getattr(_ATEN, f"conv{d}d"), way): "convolution" for d in (1, 2, 3) for way in ("default", "padding")},
    **dict.fromkeys(
        (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
         torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d,
         _ATEN.conv_transpose1d.default, _ATEN.conv_transpose2d.input, _ATEN.conv_transpose3d.input),
        "transposed",
    ),
}  # fmt: skip
"""Operators that multiply with a weight, by what calls them."""


@dataclass(frozen=True)
class Product:
    """What a forward multiplies one array with, or a part of it.

    Args:
        name: of the array; of some of its outputs alone, such as the queries of an attention, with their numbers:
            "attention.in_proj_weight[0:64]".
        kind: of the operator.
        shape: of the weight.
        groups: of a convolution.
        vectors: input vectors of each example.
        recurrent: whether it is one of every step of a recurrent layer.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    groups: int
    vectors: int
    recurrent: bool = False

    @property
    def array(self) -> str:
        """The name of the array."""
        return self.name.partition("[")[0]

    @property
    def first(self) -> int:
        """The number of its first output in the array."""
        return int(self.name.partition("[")[2].partition(":")[0] or 0)

    @property
    def matrix(self) -> tuple[int, int]:
        """(rows, cols) of a group."""
        if self.kind == "transposed":
            return self.shape[0] // self.groups, math.prod(self.shape[1:])
        return math.prod(self.shape[1:]), self.shape[0] // self.groups

    @property
    def outputs(self) -> int:
        """Channels of the output."""
        return self.shape[1] * self.groups if self.kind == "transposed" else self.shape[0]

    def factors(self, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of the weights that take the inputs to the rank, and the rank to the outputs."""
        r, g, ones = rank * self.groups, self.groups, (1,) * (len(self.shape) - 2)
        if self.kind == "transposed":
            return (r, self.shape[0] // g, *ones), (r, *self.shape[1:])
        return (r, *self.shape[1:]), (self.shape[0], rank, *ones)


Change = Callable[[str, Kind, Any, dict[str, Any], Tensor], Tensor]
"""Called with the array, the operator's kind, the operator with its weight left open, its arguments and its output."""


class _Products(TorchFunctionMode):
    """Context in which `change` replaces the output of every product with an array (this thread only)."""

    def __init__(self, model: nn.Module, change: Change) -> None:
        super().__init__()
        self.change, self.recurrent = change, False
        self.arrays = {
            programmed.untyped_storage()._cdata: (programmed, slot.name)
            for slot, module in chips.slots(model)
            if slot.layout.order != "vector"
            and (programmed := arrays_of(module).programmed.get(slot.weight)) is not None  # type: ignore[union-attr]
        }

    def name(self, weight: Any, kind: Kind) -> str | None:
        """The array that a weight is on, as `Product` has it; None: it is on none, or another view of one."""
        if not isinstance(weight, Tensor):
            return None
        held, name = self.arrays.get(weight.untyped_storage()._cdata, (None, ""))
        if isinstance(weight, OnTiles):
            name, shape = weight.tiled.slot.name, weight.tiled.slot.layout.shape
            whole = weight.numel() == math.prod(shape)
        elif held is None:
            return None
        else:
            shape = tuple(held.shape)
            whole = weight is held or (tuple(weight.shape) == shape and weight.is_contiguous())
        if whole:
            return name
        if kind != "linear" or len(shape) != 2 or weight.shape[1:] != shape[1:] or not weight.is_contiguous():
            return None
        first, within = divmod(int(weight.storage_offset()), shape[1])
        return None if within else f"{name}[{first}:{first + len(weight)}]"

    @contextmanager
    def _steps(self) -> Iterator[None]:
        self.recurrent = True
        try:
            yield
        finally:
            self.recurrent = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`, and change what it gives if it multiplies with an array."""
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return attention_by_products(*args, **kwargs)
        if func in STEP_BY_STEP and any(
            self.name(w, "linear") for w in torch.utils._pytree.tree_leaves(args)
        ):
            with self, self._steps():
                y = STEP_BY_STEP[func](func, args, kwargs)
            if y is not None:
                return y
        y = func(*args, **kwargs)
        kind = _KINDS.get(func)
        if kind is None:
            return y
        if func in _ADDMM:  # x W + b with W (inputs, outputs)
            if kwargs or len(args) != 3:
                return y
            named = {"input": args[1], "weight": args[2], "bias": args[0]}
        else:
            named = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
        weight = named["weight"]
        name = self.name(weight, kind)
        if name is None:
            return y
        if func is _ATEN.convolution.default and args[6]:
            kind = "transposed"
        if func in _ADDMM:
            named["weight"] = plain(weight).t()
        rest = {key: value for key, value in kwargs.items() if key not in ("input", "weight", "bias")}

        def again(x: Tensor, w: Tensor) -> Tensor:
            found: Tensor = func(x, w, None, *args[3:], **rest)
            return found

        named["recurrent"] = self.recurrent
        return self.change(name, kind, again, named, y)


class Corrected(nn.Module):
    """A programmed model in whose forward the products with arrays are changed."""

    def __init__(self, model: nn.Module, change: Change) -> None:
        super().__init__()
        self.model, self.change, self.training = model, change, False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Of the model."""
        with _Products(self.model, self.change):
            return self.model(*args, **kwargs)


def products(analog: nn.Module, x: Batch, fixed: int | None = None) -> tuple[Product, ...]:
    """The products of a forward with arrays, in their order.

    Args:
        analog: on some chip.
        x: a few inputs.
        fixed: the one batch size that the model accepts, if there is one.
    """
    groups = {slot.name: slot.layout.groups for slot, _ in chips.slots(analog)}
    found: dict[str, Product] = {}

    def see(name: str, kind: Kind, again: Any, named: dict[str, Any], y: Tensor) -> Tensor:
        shape = tuple(named["weight"].shape)
        here = Product(
            name, kind, shape, groups[name] if kind != "linear" else 1, 0, named["recurrent"]
        )  # no part of a convolution
        counted = named["input"].numel() // shape[0] if kind == "transposed" else y.numel() // shape[0]
        before = found.setdefault(name, here)
        if before.kind == kind and before.shape == shape:
            found[name] = replace(before, vectors=before.vectors + counted)
        return y

    few = x[: fixed or 2]
    chips.keep_arrays(analog)  # which the products are known by
    with chips.locked(analog), torch_threads_kept():
        one_thread()
        run_over(Corrected(analog, see), few, len(few), fixed)
    return tuple(replace(p, vectors=-(-p.vectors // len(few))) for p in found.values())


# The corrections of one chip, and their fit.


Variant = Literal["lora", "dora", "vera"]

VARIANTS: dict[str, int] = {"lora": 4, "dora": 4, "vera": 64}
"""The ranks that are taken where none is given."""

EPOCHS, BATCH, RATE, PATIENCE, HELD_OUT = 60, 32, 0.02, 10, 5
"""Passes over the examples at most, examples of a step, Adam's step size, passes without a better loss on the examples
that are held out before the fit stops, and of how many examples one is held out."""

STREAM = "low-rank corrections"
"""Below the seed: the name of all that a fit draws, the same for every chip."""

_FIRST = 1 << 24
"""The number of the first example of a fit: its read noise is not that of the examples that are scored."""


@dataclass(frozen=True, eq=False)
class LowRank:
    """What is known of a model before any chip is corrected. It can be pickled.

    Args:
        variant, rank: which correction.
        products: those that are corrected.
        start: array -> the tensors of its correction before the fit, which correct nothing.
        seed: of the order of examples.
        fixed: the one batch size that the model accepts, if there is one.
        left: names of the arrays that are not corrected.
    """

    variant: Variant
    rank: int
    products: tuple[Product, ...]
    start: dict[str, dict[str, Tensor]]
    seed: int
    fixed: int | None = None
    left: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, analog: nn.Module, x: Batch, variant: Variant, rank: int, seed: int, fixed: int | None = None
    ) -> "LowRank":
        """Find the products of a model with its arrays, and draw the start.

        Args:
            analog: on some chip.
            x: inputs.
            variant, rank, seed, fixed: see the class.

        Raises:
            InputError: if no array is multiplied in a way that can be corrected.
        """
        found = products(analog, x, fixed)
        if not found:
            raise InputError(
                f"no array of {type(analog).__name__} is multiplied by a linear layer or a convolution, beside which "
                f"--calibrate {variant} adds a correction: calibrate with readout"
            )
        key = Key(seed).fold(STREAM)
        arrays = [s.name for s, _ in chips.slots(analog) if s.layout.order != "vector" and not s.ideal]
        left = tuple(dict.fromkeys(name for name in arrays if name not in {p.array for p in found}))
        return cls(variant, rank, found, _start(found, variant, rank, key), seed, fixed, left)

    @property
    def words(self) -> int:
        """Numbers that are kept for each chip: A and B of vera are the same for all."""
        kept = ("d", "b") if self.variant == "vera" else ("down", "up")
        sizes = sum(self.start[p.name][name].numel() for p in self.products for name in kept)
        return sizes + (sum(p.outputs for p in self.products) if self.variant == "dora" else 0)

    @property
    def multiplications(self) -> int:
        """Digital ones for each example."""
        total = 0
        for p in self.products:
            r, (rows, cols) = self._rank(p), p.matrix
            each = r * p.groups * (rows + cols)
            if self.variant == "vera":
                each += r * p.groups + p.outputs
            if self.variant == "dora":
                each += p.outputs
            total += p.vectors * each
        return total

    @property
    def _trained(self) -> tuple[str, ...]:
        return {"vera": ("d", "b"), "dora": ("down", "up", "m")}.get(self.variant, ("down", "up"))

    def _rank(self, product: Product) -> int:
        return self.start[product.name]["down"].shape[0] // product.groups

    def fit(self, analog: nn.Module, x: Batch, loss: Callable[[Tensor, Tensor], Tensor]) -> Corrected:
        """The model with corrections for its current chip.

        One in HELD_OUT examples is held out, and those values are kept that have the least loss on them: before the
        first step nothing is corrected, so a fit that helps nothing changes nothing.

        Args:
            analog: programmed.
            x: (n, ...) examples, similar ones beside each other, n >= HELD_OUT.
            loss: of outputs and the numbers of their examples; a mean over them.

        Raises:
            InputError: if the loss is not finite before the first step.
        """
        device = next((p.device for p in analog.parameters()), torch.device("cpu"))
        values = {
            name: {key: t.to(device, copy=True) for key, t in tensors.items()}
            for name, tensors in self.start.items()
        }
        numbers = torch.arange(len(x))
        held = numbers[numbers % HELD_OUT == HELD_OUT - 1]
        seen = numbers[numbers % HELD_OUT != HELD_OUT - 1]
        first = _FIRST

        def run(some: Tensor) -> Tensor:
            nonlocal first
            with numbered_reads(first, len(some)):
                y = output_of(corrected, x[some].to(device))
            first += len(some)
            return loss(y, some)

        def judged() -> float:
            with torch.no_grad():
                parts = self._batches(held, BLOCK)
                return math.fsum(float(run(part)) for part in parts) / len(parts)

        chips.keep_arrays(analog)
        with chips.locked(analog), torch_threads_kept(), watched(analog):
            one_thread()
            if self.variant == "dora":
                self._add_norms(analog, values)
            trained = [values[p.name][key].requires_grad_() for p in self.products for key in self._trained]
            corrected = Corrected(analog, self._change(values))
            optimiser = torch.optim.Adam(trained, RATE)
            best, kept, since = judged(), [t.detach().clone() for t in trained], 0
            if not math.isfinite(best):
                raise InputError(
                    "the outputs of this chip are not finite: nothing can be fitted to them; lower sigma"
                )
            for epoch in range(EPOCHS):
                order = permutation(len(seen), Key(self.seed).fold(STREAM, str(epoch)))
                for some in self._batches(seen[order], BATCH):
                    gradients = torch.autograd.grad(run(some), trained, allow_unused=True)
                    for tensor, gradient in zip(trained, gradients, strict=True):
                        tensor.grad = gradient
                    optimiser.step()
                now, since = judged(), since + 1
                if now < best:
                    best, kept, since = now, [t.detach().clone() for t in trained], 0
                if since >= PATIENCE or not math.isfinite(now):
                    break
            for tensor, value in zip(trained, kept, strict=True):
                tensor.requires_grad_(False).grad = None
                tensor.copy_(value)
        return corrected

    def _batches(self, order: Tensor, size: int) -> list[Tensor]:
        """Examples in batches that are as equal as they can be; of the fixed size, some twice, if there is one."""
        if self.fixed is None:
            return list(order.tensor_split(-(-len(order) // size)))
        starts = torch.arange(0, len(order), self.fixed)
        return [order[(start + torch.arange(self.fixed)) % len(order)] for start in starts]

    def _add_norms(self, analog: nn.Module, values: dict[str, dict[str, Tensor]]) -> None:
        """The chip's weights, and the magnitudes m of their columns, which are the start of what is trained."""
        held = {}
        for slot, module in chips.slots(analog):
            programmed = arrays_of(module).programmed.get(slot.weight)  # type: ignore[union-attr]
            if programmed is not None:
                flipped = slot.layout.order == "in_out" and programmed.dim() == 2
                held[slot.name] = programmed.float().t() if flipped else programmed.float()
        for p in self.products:
            weight = _blocks(p, held[p.array][p.first : p.first + p.shape[0]])
            norms = weight.square().sum((2, 3)).sqrt().reshape(-1)
            values[p.name] |= {"weight": weight, "m": norms.clone()}

    def _change(self, values: dict[str, dict[str, Tensor]]) -> Change:
        by_name = {p.name: p for p in self.products}

        def change(name: str, kind: Kind, again: Any, named: dict[str, Any], y: Tensor) -> Tensor:
            p = by_name.get(name)
            if p is None or p.kind != kind or p.shape != tuple(named["weight"].shape):
                return y
            of = values[name]
            with torch._C.DisableTorchFunction():  # the correction's own products are no layers of the model
                return corrected(p, of, kind, again, named, y)

        def corrected(
            p: Product, of: dict[str, Tensor], kind: Kind, again: Any, named: dict[str, Any], y: Tensor
        ) -> Tensor:
            x = named["input"].to(of["down"].dtype)
            if kind == "transposed":
                z = _pointwise(x, of["down"], p.groups)
                z = again(z * _along(of["d"], z, 1) if "d" in of else z, of["up"])
            elif kind == "convolution":
                z = again(x, of["down"])
                channel = z.dim() - len(p.shape) + 1
                z = _pointwise(z * _along(of["d"], z, channel) if "d" in of else z, of["up"], p.groups)
            else:
                z = F.linear(x, of["down"])
                z = F.linear(z * of["d"] if "d" in of else z, of["up"])
            channel = y.dim() - 1 if kind == "linear" else y.dim() - len(p.shape) + 1
            if self.variant == "vera":
                z = z * _along(of["b"], z, channel)
            if self.variant != "dora":
                return y + z.to(y.dtype)
            moved = of["weight"] + _delta(p, of["down"], of["up"])
            norm = moved.detach().square().sum((2, 3)).sqrt().reshape(-1)
            scale = _along(of["m"] / norm.clamp_min(1e-12), y, channel)
            bias = named.get("bias")
            shift = 0.0 if bias is None else _along(plain(bias), y, channel)
            return (scale * (y - shift + z)).to(y.dtype) + shift

        return change


def _along(v: Tensor, like: Tensor, channel: int) -> Tensor:
    """A vector (channels,) that multiplies `like` along one dimension."""
    shape = [1] * like.dim()
    shape[channel] = -1
    return v.reshape(shape)


def _pointwise(x: Tensor, w: Tensor, groups: int) -> Tensor:
    return _CONVOLVE[w.dim() - 3](x, w, groups=groups)


def _blocks(p: Product, weight: Tensor) -> Tensor:
    """A weight as (groups, outputs of a group, inputs of a group, places of the kernel)."""
    if p.kind == "transposed":
        return weight.reshape(p.groups, p.shape[0] // p.groups, p.shape[1], -1).transpose(1, 2)
    return weight.reshape(p.groups, p.shape[0] // p.groups, p.shape[1], -1)


def _delta(p: Product, down: Tensor, up: Tensor) -> Tensor:
    """The product of the factors, in the form of `_blocks`."""
    rank = down.shape[0] // p.groups
    if p.kind == "transposed":
        left = down.reshape(p.groups, rank, -1)
        return torch.einsum("gri,grok->goik", left, up.reshape(p.groups, rank, p.shape[1], -1))
    right = up.reshape(p.groups, -1, rank)
    return torch.einsum("gor,grik->goik", right, down.reshape(p.groups, rank, p.shape[1], -1))


def _start(found: Sequence[Product], variant: Variant, rank: int, key: Key) -> dict[str, dict[str, Tensor]]:
    """Corrections of nothing: random A, and B (lora, dora) or b (vera) of 0."""
    start: dict[str, dict[str, Tensor]] = {}
    shared: dict[str, Tensor] = {}
    if variant == "vera":  # one pair of random matrices, of which each layer takes as much as it needs
        rows = max(p.groups * p.matrix[0] for p in found)
        cols = max(p.groups * p.matrix[1] for p in found)
        shared = {"down": _uniform(key.fold("A"), rank * rows), "up": _uniform(key.fold("B"), rank * cols)}
    for p in found:
        r = min(rank, *p.matrix) if variant != "vera" else rank
        down, up = p.factors(r)
        rows = p.matrix[0]
        if variant == "vera":
            start[p.name] = {
                "down": shared["down"][: math.prod(down)].reshape(down) / math.sqrt(rows),
                "up": shared["up"][: math.prod(up)].reshape(up) / math.sqrt(r),
                "d": torch.full((down[0],), 0.1),
                "b": torch.zeros(p.outputs),
            }
        else:
            a = _uniform(key.fold(p.name), math.prod(down)).reshape(down) / math.sqrt(rows)
            start[p.name] = {"down": a, "up": torch.zeros(up)}
    return start


def _uniform(key: Key, n: int) -> Tensor:
    """Numbers (n,) of mean 0 and variance 1."""
    words = Stream.of(key, 0).words(n).astype(np.float64)
    return torch.from_numpy((math.sqrt(12) * ((words + 0.5) / 2**32 - 0.5)).astype(np.float32))
