"""Multiply-adds of a forward: those of products on arrays, and those of products that stay digital."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor

from crossbar_sim.nn.analog.einsum import Equation, of_tensordot, steps
from crossbar_sim.nn.analog.state import ArraySlot, Layer


def paths_of(layer: Layer, slot: ArraySlot) -> set[str]:
    """Names of a slot's weight in its own layer: of a tied weight, each layer has others."""
    # parameters of the model itself are a layer called by its class, or in a graph by the parameter
    alone = slot.layer in (layer.kind, slot.weight)
    return {f"{slot.layer}.{slot.weight}", *([slot.weight] if alone else [])}


LITTLE = 0.5
"""A smaller share of the multiply-adds on arrays is warned of."""


@dataclass(frozen=True)
class ProductWork:
    """Multiply-adds of one operator with one parameter, or with none, in one inference.

    Args:
        names: of the parameter that is one factor (several if it is shared); () of two activations, or of a weight
            that is computed from others or taken past its array.
        operator: as torch names it.
        of_activations: whether every factor depends on the inputs.
        multiply_adds: for one example.
    """

    names: tuple[str, ...]
    operator: str
    of_activations: bool
    multiply_adds: float


@dataclass(frozen=True)
class ArrayShare:
    """How many of the multiply-adds of an inference run on arrays.

    Args:
        analog, digital: multiply-adds for one example.
        kinds: what the digital ones are: {words: multiply-adds}, the most first.
    """

    analog: float
    digital: float
    kinds: dict[str, float]

    @classmethod
    def of(cls, layers: Iterable[Layer], work: Sequence[ProductWork]) -> "ArrayShare | None":
        """The share of a model that is mapped so; None where no product was seen."""
        names = {name for layer in layers for slot in layer.matrices for name in paths_of(layer, slot)}
        analog, kinds = 0.0, dict[str, float]()
        for one in work:
            if names.intersection(one.names):
                analog += one.multiply_adds
                continue
            what = "of two activations (Q K^T and P V of attention)"
            if not one.of_activations:
                what = "with digital weights"
            kinds[what] = kinds.get(what, 0.0) + one.multiply_adds
        digital = sum(kinds.values())
        ordered = dict(sorted(kinds.items(), key=lambda pair: -pair[1]))
        return cls(analog, digital, ordered) if analog + digital else None

    @property
    def share(self) -> float:
        """Multiply-adds on arrays as a fraction of all."""
        return self.analog / (self.analog + self.digital)

    @property
    def text(self) -> str:
        """As "93.2 % of the multiply-adds"."""
        return f"{_percent(self.share)} of the multiply-adds"

    @property
    def sentence(self) -> str | None:
        """What is digital, in a sentence; None where nothing is."""
        if not self.digital:
            return None
        parts = [f"{what} {_percent(n / (self.analog + self.digital))}" for what, n in self.kinds.items()]
        return f"{self.text} run on arrays; digital are products {' and '.join(parts)}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON: multiply-adds of one inference."""
        return {"share_on_arrays": self.share, "on_arrays": self.analog, "digital": self.kinds}


def share_words(share: float) -> str:
    """A headline's words: "93.2 % of its multiply-adds run on arrays", with what a small share means.

    >>> share_words(0.355)
    'only 35.5 % of its multiply-adds run on arrays, so the score says little about the rest'
    """
    text = f"{_percent(share)} of its multiply-adds run on arrays"
    return text if share >= LITTLE else f"only {text}, so the score says little about the rest"


def _percent(share: float) -> str:
    """No share that is not all reads as 100 %."""
    text = f"{100 * share:.1f}"
    if text == "100.0":
        return "100 %" if share == 1 else "more than 99.9 %"
    return f"{text} %"


def work_of(packet: str, args: Sequence[Any], out: Tensor) -> float:
    """Multiply-adds of a product; 0 for any other operator.

    Args:
        packet: the operator's name, as "addmm".
        args: its arguments.
        out: its (first) result.
    """
    if packet == "einsum":
        return _of_einsum(str(args[0]), [tuple(t.shape) for t in args[1]])
    if packet == "tensordot":
        text = of_tensordot((args[0].dim(), args[1].dim()), (args[2], args[3]))
        return _of_einsum(text, [tuple(t.shape) for t in args[:2]])
    if packet in ("linear", "mkldnn_linear"):
        return out.numel() * args[1].shape[-1]
    if packet == "bilinear":
        x, _, weight = args[:3]
        return x.numel() // max(x.shape[-1], 1) * weight.numel()
    if packet in ("matmul", "mm", "bmm", "mv", "dot") or "grouped_mm" in packet:
        return out.numel() * args[0].shape[-1]
    if packet == "addbmm":
        return out.numel() * args[1].shape[-1] * args[1].shape[0]
    if packet in ("addmm", "baddbmm", "addmv", "_addmm_activation"):
        return out.numel() * args[1].shape[-1]
    if packet.startswith("_scaled_dot_product"):
        q, k, v = args[:3]
        return prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])
    if "conv" in packet:
        backwards = "transpose" in packet or (packet in ("convolution", "_convolution") and bool(args[6]))
        return (args[0] if backwards else out).numel() * args[1][:1].numel()
    return 0


def _of_einsum(text: str, shapes: list[tuple[int, ...]]) -> float:
    equation = Equation.of(text, [len(shape) for shape in shapes])
    found = None if equation is None else steps(equation, [True] * len(shapes), shapes)
    if equation is None or found is None:
        return 0
    sizes: dict[str, int] = {}
    for term, shape in zip(equation.terms, shapes, strict=True):
        sizes |= {i: max(n, sizes.get(i, 0)) for i, n in zip(term, shape, strict=True)}
    total = 0
    for step in found[1]:
        every = {*step.left, *equation.terms[step.operand]}
        total += prod(sizes[i] for i in every) if every - set(step.out) else 0
    return total
