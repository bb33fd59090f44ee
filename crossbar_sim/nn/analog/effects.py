"""The effect of every non-ideality on every layer: the relative change of its weights, one effect at a time.

Converters and read noise act on products: of those, the relative change of the layer's outputs.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crossbar_sim.crossbar.converters import DrivenInputs
from crossbar_sim.crossbar.devices import PolynomialNoise
from crossbar_sim.crossbar.hardware import Hardware, changes, square
from crossbar_sim.crossbar.layer_designs import (
    DIGITAL,
    Design,
    LayerDesigns,
    Overrides,
    of_layers,
    readout_effects,
)
from crossbar_sim.crossbar.remapping import remap_chip
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.data.inputs import Batch
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog.programming import Columns
from crossbar_sim.nn.analog.state import AnalogState, CellMaps, Layer
from crossbar_sim.nn.analog.tiled_arrays import Tiled
from crossbar_sim.nn.evaluate import run_over

_NOTHING = 1e-6
"""Changes below this are float32 rounding: the effect did nothing."""

MAPS = "map"
"""The effect of conductances that came from a file."""


EXAMPLES = 64
"""Examples on which the effects on products are measured."""


def layer_effects(
    model: torch.nn.Module, x: Batch | None = None, fixed: int | None = None
) -> dict[str, dict[str, float]]:
    """For each layer and effect, the change on the current chip: |W_with - W_without| / |W|, Frobenius norms.

    Effects are switched on one after the other in their physical order, on the same random cells, so that
    each number is what that effect added to the ones before it. Of converters and read noise it is the change of
    the layer's outputs y in place of W, for the same inputs.

    Args:
        model: analog.
        x: inputs (n, ...); the first of them show the effects on products. None: those are left out.
        fixed: the one batch size that the model accepts.

    Returns:
        {layer: {effect: relative change}}; layers whose clean weights are all zero are left out.
    """
    shared = chips.analog_state(model)
    squares: dict[str, dict[str, float]] = {}
    sizes: dict[str, float] = {}
    for slot, module in chips.slots(model):
        if slot.ideal:
            continue
        with torch.no_grad():
            matrix = slot.columns(module).detach().cpu()
        whole = shared.maps is not None or shared.remap or matrix.dtype == torch.float32
        columns: Any = matrix.float().contiguous().numpy() if whole else Columns(matrix)
        sums = squares.setdefault(slot.layer, {})
        sizes[slot.layer] = sizes.get(slot.layer, 0.0) + square(columns)
        if shared.maps is not None:
            mapped = shared.maps(slot.name, columns)
            change = 0.0 if mapped is None else square(mapped - columns)
            sums[MAPS] = sums.get(MAPS, 0.0) + change
            continue
        own, key, groups = shared.of(slot.layer), shared.key(slot.name), slot.layout.groups
        if shared.remap:  # on the cells where the weights lie
            lying = remap_chip(own, columns, key, shared.chip, groups)
            columns = np.ascontiguousarray(lying.place(columns.T).T)
        caused = changes(own, columns, key, shared.chip, groups)
        for effect, change in caused.items():
            sums[effect] = sums.get(effect, 0.0) + change
    found = {
        layer: {effect: float(np.sqrt(total / sizes[layer])) for effect, total in sums.items()}
        for layer, sums in squares.items()
        if sizes[layer] > 0
    }
    if (
        x is not None
        and readout_effects(shared.hardware)
        and (shared.maps is None or isinstance(shared.maps, CellMaps))
    ):
        for layer, products in product_effects(model, x[:EXAMPLES], fixed).items():
            found.setdefault(layer, {}).update(products)
    return found


def product_effects(
    model: torch.nn.Module, x: Batch, fixed: int | None = None
) -> dict[str, dict[str, float]]:
    """For each layer with converters, the change by each effect: |y_with - y_without| / |y|.

    Every part is added to those before it, on the same inputs: those that the layer sees with everything on.
    """
    shared = chips.analog_state(model)
    squares: dict[str, NDArray[np.float64]] = {}

    def probe(tiled: Tiled, group: int, v: Float32, driven: DrivenInputs, first: int) -> None:
        names = shared.of(tiled.slot.layer).readout_effects
        block, total = tiled.block(group), squares.setdefault(tiled.slot.layer, np.zeros(len(names) + 1))
        plain = block.drive(v, ())
        before = block.read(plain, 0, first, ())
        total[-1] += square(before)
        for i in range(len(names)):
            acting = names[: i + 1]
            after = block.read(driven if "dac" in acting else plain, 0, first, acting)
            total[i] += square(after - before)
            before = after

    shared.probe = probe
    try:
        run_over(model, x, len(x) or 1, fixed)
    finally:
        shared.probe = None
    return {
        layer: {
            name: float(np.sqrt(total[i] / total[-1])) if total[-1] > 0 else 0.0
            for i, name in enumerate(shared.of(layer).readout_effects)
        }
        for layer, total in squares.items()
    }


def read_linearly(model: torch.nn.Module, effects: dict[str, dict[str, float]]) -> list[str]:
    """Sentences on arrays whose products went through no converter although the design has some, all or a part.

    Call it after the model has run.
    """
    shared = chips.analog_state(model)
    if shared.maps is not None and not isinstance(shared.maps, CellMaps):
        return []
    analog = [layer.name for layer in shared.layers if layer.analog]
    found = of_layers(shared.hardware, analog)
    return [sentence for hardware, layers in found for sentence in _linear(shared, hardware, layers, effects)]


def _linear(
    shared: AnalogState, hardware: Hardware, layers: tuple[str, ...], effects: dict[str, dict[str, float]]
) -> list[str]:
    names = hardware.readout_effects
    if not names:
        return []
    left = [layer for layer in layers if not any(name in effects.get(layer, {}) for name in names)]
    partly = [layer for layer in layers if layer in shared.bypassed and layer not in left]
    sentences = []
    if left:
        sentences += [
            f"{', '.join(names)} do not act on the products of {', '.join(left)}: their weights are read linearly"
        ]
    if partly:
        sentences += [
            f"{', '.join(partly)}: the forward also computes with the weights in another way (their transpose, a "
            f"cast), and there {', '.join(names)} do not act"
        ]
    return sentences


def idle_effects(effects: dict[str, dict[str, float]], design: Design, chip: int) -> list[str]:
    """One sentence for every requested effect that changed nothing, in all layers of a design or in some."""
    found = of_layers(design, effects)
    return [
        sentence
        for hardware, layers in found
        for sentence in _idle({layer: effects[layer] for layer in layers}, hardware, chip, len(found) == 1)
    ]


def _idle(effects: dict[str, dict[str, float]], hardware: Hardware, chip: int, everywhere: bool) -> list[str]:
    sentences = []
    for effect in (*hardware.effects, *hardware.readout_effects):
        idle = [layer for layer, changes in effects.items() if changes.get(effect, 1.0) < _NOTHING]
        if not idle:
            continue
        value = getattr(hardware, effect, None) or getattr(hardware.mapping, effect, None)
        where = "any layer" if everywhere and len(idle) == len(effects) else ", ".join(idle)
        sentences.append(f"{effect} ({value}) was requested but changed nothing in {where} on chip {chip}")
    return sentences


# Sentences on requests of a design that cannot act on a model: for reports, and for those who call `to_analog`.

ON_ARRAYS_ANYWAY = "which is on arrays"
"""How the reason ends of a layer that was to be digital and runs on the arrays of another one."""


def of_design(design: Design, layers: tuple[Layer, ...]) -> Iterator[str]:
    """Warnings about settings without effect on this design or model, and about fits used outside their range."""
    if not any(layer.analog for layer in layers):
        why = "; ".join(f"{layer.name}: {layer.reason}" for layer in layers[:2])
        only = (
            "only digital parameters drift" if any(layer.slots for layer in layers) else "and nothing drifts"
        )
        yield f"no layer is on an array, {only} ({why})"
    for layer in layers:
        if layer.reason.endswith(ON_ARRAYS_ANYWAY):
            yield f"{layer.name}: {layer.reason}: choose both layers to be digital, or none"
    if isinstance(design, Hardware):
        yield from _of_one(design, layers)
        return
    yield from _idle_patterns(design, layers)
    for hardware, names in design.of_layers(layer.name for layer in layers):
        own = tuple(layer for layer in layers if layer.name in names)
        folds = any(map(_is_batch_norm, own))  # or no other design has one
        folds = folds or (any(map(_is_normalisation, own)) and not any(map(_is_batch_norm, layers)))
        plain = hardware if folds else replace(hardware, normalisation="digital")  # none to fold
        if any(layer.slots for layer in own):
            yield from (f"{', '.join(names)}: {sentence}" for sentence in _of_one(plain, own))


def _is_normalisation(layer: Layer) -> bool:
    by_reason = "normalisation" in layer.reason or layer.reason.startswith("folded into")
    return by_reason or _is_batch_norm(layer)


def _is_batch_norm(layer: Layer) -> bool:
    """Of a kind that could be folded, also where it was chosen to be digital."""
    return "batchnorm" in layer.kind.lower().replace("_", "")


def _idle_patterns(designs: LayerDesigns, layers: tuple[Layer, ...]) -> Iterator[str]:
    """Warnings about patterns whose design, or a choice of it, acts on none of their layers."""
    for i, (pattern, design) in enumerate(designs.layers):
        own = [layer for layer in layers if designs.first(layer.name) == i]
        given = {name for name, _ in design.values} if isinstance(design, Overrides) else set()
        choices = bool(given) and given <= {"bias", "normalisation", "other"}
        whole = None if not own else designs.at(own[0].name)
        if isinstance(design, Hardware) and any(map(_is_normalisation, own)):
            choices = design.normalisation != designs.base.normalisation  # which left a digital one digital
        if (
            whole is not None
            and any(layer.slots for layer in own)
            and not any(layer.matrices for layer in own)
        ):
            idle = [e for e in whole.readout_effects if getattr(whole, e) != getattr(designs.base, e)]
            if idle:
                named, act = ", ".join(layer.name for layer in own[:3]), "do" if len(idle) > 1 else "does"
                yield (
                    f"{', '.join(idle)} of {pattern!r} {act} not act: converters and read noise act on products with "
                    f"a matrix, and {named} {'have' if len(own) > 1 else 'has'} none"
                )
        chosen = design != DIGITAL and not choices and not designs.is_default(i)
        if own and chosen and not any(layer.slots for layer in own):
            named = ", ".join(f"{layer.name} ({layer.reason})" for layer in own[:3])
            yield f"the design of {pattern!r} has no effect: nothing of {named} is on an array"
        elif "normalisation" in given and not any(map(_is_normalisation, own)):
            yield (
                f"the normalisation of {pattern!r} has no effect: it matches no normalisation "
                "(a folded one takes the design of the layer before it, but its own says that it is folded)"
            )


def _of_one(hardware: Hardware, layers: tuple[Layer, ...]) -> Iterator[str]:
    mapping = hardware.mapping
    if mapping.copies > 1 and not hardware.effects and not hardware.readout_effects:
        yield f"copies={mapping.copies} does nothing where no effect acts on a cell"
    if hardware.normalisation == "folded" and not any("folded into" in layer.reason for layer in layers):
        norms = [layer for layer in layers if _is_batch_norm(layer) and "no layer alone" not in layer.reason]
        named = ", ".join(f"{layer.name} ({layer.reason})" for layer in norms[:3])
        more = f" and {len(norms) - 3} more" if len(norms) > 3 else ""
        why = (
            f"nothing is folded: {named}{more}"
            if norms
            else "no batch normalisation alone follows a mapped layer"
        )
        yield f"normalisation=folded was requested, but {why}"
    if hardware.drift_per == "weight" and mapping.planes_per_copy == 1:
        yield "drift_per=weight does nothing with the offset mapping: a weight is one cell there"
    if hardware.bias == "row":
        left = [layer.name for layer in layers if layer.analog and not any(s.bias for s in layer.matrices)]
        if left:
            yield f"bias=row adds no row in {', '.join(left)}: no bias, or one that cannot join its matrix"
    if isinstance(hardware.programming, PolynomialNoise):
        yield from _of_fit(hardware.programming, mapping.g_min, mapping.g_max)


def _of_fit(noise: PolynomialNoise, low: float, high: float) -> Iterator[str]:
    """Warn where a fitted polynomial is negative: it is taken as 0, which underestimates the noise."""
    for i in range(101):
        g = low + (high - low) * i / 100
        if sum(c * (g / noise.reference) ** k for k, c in enumerate(noise.coefficients)) < 0:
            yield (
                f"the programming noise's polynomial is negative at {g * 1e6:.3g} uS, inside the window of "
                f"{low * 1e6:.3g} to {high * 1e6:.3g} uS: cells there count as exact; keep to the fit's range"
            )
            return
