"""What a `Hardware` is put together from: families of parts, choices, and the check of both."""

from typing import Any, NamedTuple

from crossbar_sim.crossbar.checks import SINGLE, is_whole, require, show
from crossbar_sim.crossbar.converters import ADC, DAC
from crossbar_sim.crossbar.devices import (
    ALL_PROGRAMMING,
    PolynomialNoise,
    ProgrammingNoise,
    StuckCells,
)
from crossbar_sim.crossbar.drift import ALL_DRIFTS, MeasuredRelaxation
from crossbar_sim.crossbar.law import Law
from crossbar_sim.crossbar.mapping import ALL_MAPPINGS, Mapping
from crossbar_sim.crossbar.ranges import Ranges
from crossbar_sim.crossbar.read_noise import ALL_READ_NOISE
from crossbar_sim.crossbar.wires import Wires


class Family(NamedTuple):
    """The parts that one field of Hardware can hold.

    Args:
        bases: what a value must be an instance of.
        members: the classes that have a `kind` in files and on the command line.
        example: how a sentence describes such a part.
        optional: whether None (ideal) is allowed.
    """

    bases: tuple[type, ...]
    members: tuple[type, ...]
    example: str
    optional: bool = True

    @property
    def kinds(self) -> dict[str, Any]:
        """The classes by kind."""
        return {cls.kind: cls for cls in self.members}  # type: ignore[attr-defined]


FAMILIES = {
    "mapping": Family((Mapping,), ALL_MAPPINGS, "a mapping such as Differential(g_max=1e-4)", False),
    "drift": Family((Law,), ALL_DRIFTS, "a drift law such as LogNormalDrift(0.6)"),
    "programming": Family(
        (ProgrammingNoise, PolynomialNoise),
        ALL_PROGRAMMING,
        "programming noise such as ProgrammingNoise(0.05)",
    ),
    "stuck": Family((StuckCells,), (StuckCells,), "stuck cells such as StuckCells(off=0.01)"),
    "wires": Family((Wires,), (Wires,), "wires such as Wires(1.0, 1.0)"),
    "dac": Family((DAC,), (DAC,), "a DAC such as DAC(bits=8)"),
    "adc": Family((ADC,), (ADC,), "an ADC such as ADC(bits=8)"),
    "read_noise": Family(ALL_READ_NOISE, ALL_READ_NOISE, "read noise such as GaussianReadNoise(0.01)"),
    "ranges": Family((Ranges,), (Ranges,), "the ranges that a calibration wrote"),
}
"""The fields of Hardware that hold a part."""

CHOICES = {
    "drift_per": ("cell", "weight"),
    "bias": ("digital", "row", "drifting"),
    "normalisation": ("digital", "folded", "drifting"),
    "other": ("digital", "drifting"),
}
"""The allowed words of each choice: also those of the command line's options."""


def check_hardware(hardware: Any) -> None:
    """Refuse a Hardware under construction if a field is impossible; keep `tile` as a tuple of int.

    Raises:
        InputError: naming the field, what was given and what is allowed.
    """
    for name, family in FAMILIES.items():
        value = getattr(hardware, name)
        allowed = isinstance(value, family.bases) or (family.optional and value is None)
        require(allowed, f"{name}={show(value)}: expected {family.example}{_or_none(family)}")
    for name, words in CHOICES.items():
        value = getattr(hardware, name)
        allowed = isinstance(value, str) and value in words
        require(allowed, f"{name}={show(value)} must be one of {', '.join(words)}")
    tile = hardware.tile
    require(
        isinstance(tile, tuple | list)
        and len(tile) == 2
        and all(is_whole(n) and 1 <= n < 2**31 for n in tile),
        f"tile={show(tile)}: rows and cols of a tile are two whole numbers in 1 .. 2147483647",
    )
    object.__setattr__(hardware, "tile", tuple(int(n) for n in tile))
    _check_periphery(hardware)
    noise, g_max = hardware.programming, hardware.mapping.g_max
    if isinstance(noise, PolynomialNoise):
        require(
            noise.bound(g_max) <= SINGLE,
            f"programming.reference={noise.reference} S: at g_max={g_max} S sigma exceeds 1e30 S, "
            "is the reference given in S?",
        )
    if isinstance(hardware.drift, MeasuredRelaxation):
        require(
            hardware.drift.bound(g_max) <= SINGLE,
            f"drift.reference={hardware.drift.reference} S: at g_max={g_max} S the shift exceeds 1e30 S, "
            "is the reference given in S?",
        )


def _check_periphery(hardware: Any) -> None:
    """Refuse ranges that have no meaning in this design: they would do nothing, or cannot be computed."""
    dac, adc, mapping = hardware.dac, hardware.adc, hardware.mapping
    if adc is None:
        return
    require(
        adc.bits != 1 or not adc.signed(dac),
        "adc.bits=1 leaves no bit for the sign of these currents: give 2 or more, or read columns of inputs of one "
        "sign (adc.per='column', dac.signed='two-phase')",
    )
    if adc.range == "max":
        require(
            dac is not None,
            "adc.range='max' is the largest current that inputs of full scale can give, and without a dac there is "
            "no full scale: add one, such as dac = DAC(bits=None) for an ideal one",
        )
    if adc.range == "granular":
        require(
            adc.bits is not None and mapping.levels is not None and dac is not None and dac.bits is not None,
            "adc.range='granular' makes a step of the current of one level at one input code: it needs adc.bits, "
            "dac.bits and mapping.levels",
        )


def _or_none(family: Family) -> str:
    return ", or None for an ideal one" if family.optional else ""
