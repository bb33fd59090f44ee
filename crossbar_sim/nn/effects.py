"""What every requested effect did to every layer: the relative change of its weights, one effect at a time."""

import numpy as np
import torch

from crossbar_sim.crossbar import effects as core
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.nn import chips

_NOTHING = 1e-6
"""Changes below this are float32 rounding: the effect did nothing."""

MAPS = "map"
"""The effect of conductances that came from a file."""


def layer_effects(model: torch.nn.Module) -> dict[str, dict[str, float]]:
    """Per layer and effect, the change it caused on the present chip: |W_with - W_without| / |W|, Frobenius.

    Effects are switched on one after the other in their physical order, on the same random cells, so that
    each number is what that effect added to the ones before it.

    Returns:
        {layer: {effect: relative change}}; layers whose clean weights are all zero are left out.
    """
    shared = chips.design(model)
    squares: dict[str, dict[str, float]] = {}
    sizes: dict[str, float] = {}
    for slot, module in chips.slots(model):
        if slot.ideal:
            continue
        with torch.no_grad():
            columns = slot.columns(module).detach().float().cpu().contiguous().numpy()
        changes = squares.setdefault(slot.layer, {})
        sizes[slot.layer] = sizes.get(slot.layer, 0.0) + core.square(columns)
        if shared.maps is not None:
            mapped = shared.maps(slot.name, columns)
            change = 0.0 if mapped is None else core.square(mapped - columns)
            changes[MAPS] = changes.get(MAPS, 0.0) + change
            continue
        caused = core.changes(shared.hardware, columns, shared.key(slot.name), shared.chip)
        for effect, square in caused.items():
            changes[effect] = changes.get(effect, 0.0) + square
    return {
        layer: {effect: float(np.sqrt(square / sizes[layer])) for effect, square in changes.items()}
        for layer, changes in squares.items()
        if sizes[layer] > 0
    }


def idle_effects(effects: dict[str, dict[str, float]], hardware: Hardware, chip: int) -> list[str]:
    """One sentence for every requested effect that changed nothing, in all layers or in some."""
    sentences = []
    for effect in hardware.effects:
        idle = [layer for layer, changes in effects.items() if changes.get(effect, 1.0) < _NOTHING]
        if not idle:
            continue
        value = getattr(hardware, effect, None) or getattr(hardware.mapping, effect, None)
        where = "any layer" if len(idle) == len(effects) else ", ".join(idle)
        sentences.append(f"{effect} ({value}) was requested but changed nothing in {where} on chip {chip}")
    return sentences
