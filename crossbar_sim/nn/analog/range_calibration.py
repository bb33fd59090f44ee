"""Converter ranges calibrated on data: the values at every layer's DACs and ADCs, and the ranges that fit them.

The conductances are those that the design aims at (mapping and levels, nothing random), so ranges belong to the
design and are the same on all of its chips. Layers run linearly while ranges are found, so one layer's converters
do not spoil another's ranges; clipped conversions and used codes are then counted with everything converting.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from torch import nn

from crossbar_sim.crossbar.converters import DrivenInputs, LayerRange, Ranges
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.layer_designs import Design, LayerDesigns, designs_of, each
from crossbar_sim.crossbar.readout import EFFECTS, Magnitudes, Usage, count_inputs, count_outputs, currents
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.data.inputs import Batch
from crossbar_sim.errors import InputError
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog.conversion import map_model
from crossbar_sim.nn.analog.tiled_arrays import Tiled
from crossbar_sim.nn.evaluate import run_over
from crossbar_sim.validate import SINGLE, require, show

D = TypeVar("D", Hardware, LayerDesigns, Design)

BATCH = 64
"""Examples at a time."""

VECTORS = 2048
"""Input vectors of a layer looked at in each batch, evenly spaced: a convolution has thousands for each image."""


@dataclass(frozen=True)
class RangeReport:
    """The calibrated converters of one array.

    Args:
        name: of the array.
        input: full scale of the DACs in units of the input; None: each vector's own, or no DAC.
        input_clipped, input_used: percent of the inputs clipped, and of the codes that came up; None: ideal.
        output: full scale of the ADCs for each weight slice, in A at 1 V; empty: no ADC, or an ideal one.
        output_clipped, output_used: the same for the ADCs.
    """

    name: str
    input: float | None
    input_clipped: float | None
    input_used: float | None
    output: tuple[float, ...]
    output_clipped: float | None
    output_used: float | None


def needs_calibration(design: Design) -> bool:
    """Whether a range of the design, or of a layer's, is to be calibrated and has not been."""
    return any(_is_calibrated(hardware) and hardware.ranges is None for hardware in designs_of(design))


def _is_calibrated(hardware: Hardware) -> bool:
    return any(part is not None and part.range == "calibrated" for part in (hardware.dac, hardware.adc))


def calibrate_ranges(
    model: nn.Module,
    hardware: D,
    x: Batch,
    *,
    only: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    seed: int = 0,
    chip: int | None = None,
    fixed: int | None = None,
) -> tuple[D, tuple[RangeReport, ...]]:
    """The design with the converter ranges of every layer, and how well they fit.

    Args:
        model: clean, in evaluation mode.
        hardware: with a dac or an adc, or a design per layer of which at least one has.
        x: inputs (n, ...), of the training or validation data: never of the test data.
        only, skip: see `to_analog`.
        seed, chip: calibrate on this chip with all that is random in it, rather than on the conductances aimed at.
        fixed: the one batch size that the model accepts.

    Raises:
        InputError: if hardware is not a design, or there are no converters, no inputs, or no layer whose products they
            convert.
    """
    require(
        isinstance(hardware, Design),
        f"hardware={show(hardware)}: expected a Hardware, or LayerDesigns.of({{...}}) for a design per layer",
    )
    if all(own.dac is None and own.adc is None for own in designs_of(hardware)):
        raise InputError("the design has no dac and no adc: there is no range to calibrate")
    if len(x) == 0:
        raise InputError("calibration needs at least one input")

    def without_chance(own: Hardware) -> Hardware:
        if chip is None:
            own = replace(own.up_to("levels"), wires=own.wires, dac=own.dac, adc=own.adc)
        return replace(own, read_noise=None, ranges=None)

    still = each(hardware, without_chance)
    analog, _ = map_model(model, still, x, seed, chip or 0, only, skip, fixed=fixed)
    run = partial(_run, analog, x, fixed)
    found: dict[str, LayerRange] = {}
    if any(own.dac is not None and own.dac.range == "calibrated" for own in designs_of(still)):
        inputs: dict[str, tuple[float, Magnitudes]] = {}

        def take(tiled: Tiled, group: int, v: Float32, driven: DrivenInputs) -> None:
            dac = tiled.own.dac
            if dac is not None and dac.range == "calibrated":
                inputs.setdefault(tiled.slot.name, (dac.percentile, Magnitudes()))[1].add(v)

        run(take, ())
        found = {n: LayerRange(_full_scale(n, m.percentile(p))) for n, (p, m) in inputs.items()}
        chips.set_hardware(analog, replace(still, ranges=Ranges.of(found)))
    if any(own.adc is not None and own.adc.range == "calibrated" for own in designs_of(still)):
        outputs: dict[str, tuple[float, list[Magnitudes]]] = {}

        def see(tiled: Tiled, group: int, v: Float32, driven: DrivenInputs) -> None:
            adc = tiled.own.adc
            if adc is None or adc.range != "calibrated":
                return
            slices = tiled.block(group).mapping.slices
            fresh = adc.percentile, [Magnitudes() for _ in range(slices)]
            seen = outputs.setdefault(tiled.slot.name, fresh)[1]
            for _, _, k, i in currents(tiled.block(group), driven):
                seen[k].add(i)

        run(see, ("dac",))
        for name, (p, seen) in outputs.items():
            chosen = tuple(_full_scale(name, m.percentile(p)) for m in seen)
            found[name] = replace(found.get(name, LayerRange()), output=chosen)
    ranges = Ranges.of(found) if found else None
    chips.set_hardware(analog, replace(still, ranges=ranges))
    reports = _report(analog, run)
    if not reports:
        raise InputError("no layer's product goes through converters: there is no range to calibrate")
    return replace(hardware, ranges=ranges), reports


def _full_scale(name: str, value: float) -> float:
    """A range of the array `name`, which is not 0 even if the array received only zeros."""
    require(
        value <= SINGLE, f"{name}: its converters see values up to {value:.3g}, and ranges end at {SINGLE:g}"
    )
    return value if value > 0 else 1.0


def _report(analog: nn.Module, run: Callable[..., None]) -> tuple[RangeReport, ...]:
    """Measure how well the ranges fit, in one more pass with all converters active."""
    inputs: dict[str, Usage] = {}
    outputs: dict[str, Usage] = {}
    arrays: dict[str, Tiled] = {}

    def count(tiled: Tiled, group: int, v: Float32, driven: DrivenInputs) -> None:
        name, block = tiled.slot.name, tiled.block(group)
        dac, adc = tiled.own.dac, tiled.own.adc
        arrays[name] = tiled
        if dac is not None and dac.bits is not None:
            count_inputs(v, driven, inputs.setdefault(name, Usage(dac.top, True)))
        if adc is not None and adc.bits is not None:
            count_outputs(block, driven, outputs.setdefault(name, Usage(adc.top(dac), adc.signed(dac))))

    run(count, EFFECTS)
    return tuple(
        _line(name, tiled, tiled.own, inputs.get(name), outputs.get(name)) for name, tiled in arrays.items()
    )


def _line(
    name: str, tiled: Tiled, hardware: Hardware, inputs: Usage | None, outputs: Usage | None
) -> RangeReport:
    block, dac, adc = tiled.block(0), hardware.dac, hardware.adc
    given: float | None = None
    if dac is not None and dac.range != "dynamic":
        known = block.periphery.ranges
        given = dac.range if not isinstance(dac.range, str) else known.input if known is not None else None
    slices = range(block.mapping.slices) if adc is not None and adc.bits is not None else ()
    return RangeReport(
        name, given,
        None if inputs is None else inputs.clipped_percent, None if inputs is None else inputs.used_percent,
        tuple(block.output_range(k) for k in slices),
        None if outputs is None else outputs.clipped_percent, None if outputs is None else outputs.used_percent,
    )  # fmt: skip


def _run(
    analog: nn.Module,
    x: Batch,
    fixed: int | None,
    see: Callable[[Tiled, int, Float32, DrivenInputs], Any],
    effects: tuple[str, ...],
) -> None:
    """Run the model over x in batches, showing `see` some of the input vectors of every array with converters."""

    def probe(tiled: Tiled, group: int, v: Float32, driven: DrivenInputs, first: int) -> None:
        some = slice(None, None, -(-len(v) // VECTORS) or 1)
        unit = driven.unit if len(driven.unit) == 1 else driven.unit[some]
        see(tiled, group, v[some], driven._replace(codes=driven.codes[:, some], unit=unit))

    with _probing(analog, probe, effects):
        run_over(analog, x, BATCH, fixed)


@contextmanager
def _probing(analog: nn.Module, probe: Any, effects: tuple[str, ...]) -> Iterator[None]:
    design = chips.analog_state(analog)
    design.probe, design.effects = probe, effects
    try:
        yield
    finally:
        design.probe, design.effects = None, None
