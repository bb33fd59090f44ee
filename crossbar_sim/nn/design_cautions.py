"""Sentences on requests of a design that cannot act on a model: for reports, and for those who call `to_analog`."""

from collections.abc import Iterator

from crossbar_sim.crossbar.devices import PolynomialNoise
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.nn.layer import Layer


def of_design(hardware: Hardware, layers: tuple[Layer, ...]) -> Iterator[str]:
    """Requests that change nothing in this design or model, and a fit used where it has no meaning."""
    mapping = hardware.mapping
    if not any(layer.analog for layer in layers):
        why = "; ".join(f"{layer.name}: {layer.reason}" for layer in layers[:2])
        only = (
            "only digital parameters drift" if any(layer.slots for layer in layers) else "and nothing drifts"
        )
        yield f"no layer is on an array, {only} ({why})"
    if mapping.copies > 1 and not hardware.effects and not hardware.reading:
        yield f"copies={mapping.copies} does nothing where no effect acts on a cell"
    if hardware.normalisation == "folded" and not any("folded into" in layer.reason for layer in layers):
        yield "normalisation=folded was requested, but no batch normalisation alone follows a mapped layer"
    if hardware.drift_per == "weight" and mapping.planes_per_copy == 1:
        yield "drift_per=weight does nothing with the offset mapping: a weight is one cell there"
    if hardware.bias == "row":
        left = [layer.name for layer in layers if layer.analog and not any(s.bias for s in layer.matrices)]
        if left:
            yield f"bias=row adds no row in {', '.join(left)}: no bias, or one that cannot join its matrix"
    if isinstance(hardware.programming, PolynomialNoise):
        yield from _of_fit(hardware.programming, mapping.g_min, mapping.g_max)


def _of_fit(noise: PolynomialNoise, low: float, high: float) -> Iterator[str]:
    """A polynomial below 0 is used where it was not fitted; it counts as 0, which flatters the hardware."""
    for i in range(101):
        g = low + (high - low) * i / 100
        if sum(c * (g / noise.reference) ** k for k, c in enumerate(noise.coefficients)) < 0:
            yield (
                f"the programming noise's polynomial is negative at {g * 1e6:.3g} uS, inside the window of "
                f"{low * 1e6:.3g} to {high * 1e6:.3g} uS: cells there count as exact; keep to the fit's range"
            )
            return
