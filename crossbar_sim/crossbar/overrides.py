"""A design with some of its values replaced by name: what presets, files and flags share."""

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from crossbar_sim.crossbar.checks import show, unknown
from crossbar_sim.crossbar.converters import ADC, DAC
from crossbar_sim.crossbar.devices import ProgrammingNoise, StuckCells
from crossbar_sim.crossbar.drift import LogNormalDrift, RelaxationShift
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.read_noise import GaussianReadNoise
from crossbar_sim.crossbar.wires import Wires
from crossbar_sim.errors import InputError

MAPPING_KEYS = ("g_min", "g_max", "levels", "scale_per", "clip", "copies", "cell_bits")

PERIPHERY = {
    "dac_bits": ("dac", "bits"),
    "dac_range": ("dac", "range"),
    "adc_bits": ("adc", "bits"),
    "adc_range": ("adc", "range"),
    "adc_per": ("adc", "per"),
}
"""Conveniences that set one field of a converter, which is added where the design has none."""

FLAT = (
    *MAPPING_KEYS, "sigma", "time", "programming_sigma", "stuck_off", "stuck_on",
    *PERIPHERY, "read_noise_sigma", "wire_ohm",
)  # fmt: skip
"""The conveniences of `override` beside the fields of Hardware."""

OVERRIDES = (*(f.name for f in fields(Hardware)), *FLAT)

SETS = {
    "drift": "drift",
    "sigma": "drift",
    "programming": "programming",
    "programming_sigma": "programming",
    "read_noise": "read_noise",
    "read_noise_sigma": "read_noise",
    "wires": "wires",
    "wire_ohm": "wires",
}
"""Overrides that replace a whole part: two for the same part contradict each other."""

RANGED = ("mapping", "tile", "wires", "dac", "adc")
"""The fields that decide what converters see: ranges calibrated with others do not fit."""


def override(hardware: Hardware, **flat: Any) -> Hardware:
    """`hardware` with values replaced.

    Its `ranges` were calibrated with its mapping, tiles, wires and converters: where one of these changes and no
    `ranges` are given, they are dropped (`dropped_ranges` says so), to be calibrated anew.

    Args:
        hardware: the design.
        flat: fields of Hardware, which come first, and these, which act on what is then there:

            * g_min, g_max (S), levels, scale_per, clip, copies, cell_bits: of the mapping;
            * sigma: log-normal drift with this sigma of ln g, in place of any drift; None: none;
            * time: seconds since programming, where the drift law has a time;
            * programming_sigma: constant programming noise, a fraction of g_max; None: none;
            * stuck_off, stuck_on: probabilities;
            * dac_bits, dac_range, adc_bits, adc_range, adc_per: of the converters, which a design without
              them gets with these values;
            * read_noise_sigma: Gaussian read noise, a fraction of g_max; None: none;
            * wire_ohm: ohm per wire segment, of word and bit lines; None: ideal wires.

    Raises:
        InputError: for an unknown name, an impossible value, or two overrides of the same thing.

    >>> override(Hardware(), sigma=0.6, copies=4).mapping.copies
    4
    """
    for name in flat:
        if name not in OVERRIDES:
            raise InputError(unknown("the override", name, OVERRIDES))
    check_conflicts(flat, SETS)
    before = hardware
    hardware = replace(hardware, **{k: v for k, v in flat.items() if k not in FLAT})
    changes: dict[str, Any] = {}
    of_mapping: dict[str, Any] = {k: v for k, v in flat.items() if k in MAPPING_KEYS}
    if of_mapping:
        changes["mapping"] = replace(hardware.mapping, **of_mapping)
    if "sigma" in flat:
        changes["drift"] = None if flat["sigma"] is None else LogNormalDrift(flat["sigma"])
    if "time" in flat:
        changes["drift"] = _at_time(changes.get("drift", hardware.drift), flat["time"])
    if "programming_sigma" in flat:
        sigma = flat["programming_sigma"]
        changes["programming"] = None if sigma is None else ProgrammingNoise(sigma)
    stuck = {key.removeprefix("stuck_"): flat[key] for key in ("stuck_off", "stuck_on") if key in flat}
    if stuck:
        changes["stuck"] = replace(hardware.stuck or StuckCells(), **stuck)
    for part, cls in (("dac", DAC), ("adc", ADC)):
        of_part = {
            field: flat[key] for key, (owner, field) in PERIPHERY.items() if owner == part and key in flat
        }
        if of_part:
            changes[part] = _with(changes.get(part, getattr(hardware, part)), cls, of_part)
    if "read_noise_sigma" in flat:
        sigma = flat["read_noise_sigma"]
        changes["read_noise"] = None if sigma is None else GaussianReadNoise(sigma)
    if "wire_ohm" in flat:
        ohm = flat["wire_ohm"]
        changes["wires"] = None if ohm is None else Wires(ohm, ohm)
    if "ranges" not in flat and _ranged(replace(hardware, **changes), before):
        changes["ranges"] = None
    return replace(hardware, **changes)


def dropped_ranges(before: Hardware, after: Hardware) -> tuple[str, ...]:
    """A sentence where `override` made `after` of `before` and dropped its ranges."""
    if before.ranges is None or after.ranges is not None:
        return ()
    return (
        f"the design's converter ranges were calibrated with another {' and '.join(_ranged(after, before))}: they are "
        "left out, and chosen anew for a converter whose range is 'calibrated'",
    )


def _ranged(one: Hardware, other: Hardware) -> list[str]:
    """The fields of `RANGED` in which two designs differ."""
    return [name for name in RANGED if getattr(one, name) != getattr(other, name)]


def _with(part: Any, cls: Any, values: dict[str, Any]) -> Any:
    """A converter with values replaced, or a new one; the error names it."""
    try:
        return cls(**values) if part is None else replace(part, **values)
    except InputError as error:
        raise InputError(f"{cls.kind}.{error}") from None


def check_conflicts(names: Iterable[str], sets: dict[str, str]) -> None:
    """Refuse two overrides of which one would silently do nothing.

    Args:
        names: the overrides given.
        sets: the part that each of them replaces, where it replaces one.

    Raises:
        InputError: naming both.
    """
    seen: dict[str, str] = {}
    for name in names:
        part = sets.get(name)
        if part in seen:
            raise InputError(f"{seen[part]} and {name} both set the {part}: give one of them")
        if part is not None:
            seen[part] = name


def at_sigma(hardware: Hardware, sigma: float) -> Hardware:
    """`hardware` at one point of a sweep: its drift law with this sigma, log-normal where it has none.

    Raises:
        InputError: if the drift law has no sigma, or not this one.
    """
    drift: Any = hardware.drift
    if drift is None:
        return replace(hardware, drift=LogNormalDrift(sigma))
    if not any(f.name == "sigma" for f in fields(drift)):
        timed = any(f.name == "time" for f in fields(drift))
        raise InputError(
            f"a sweep varies sigma, but the design has {drift.kind} drift, which has none: deploy takes it as it is"
            f"{' (and at any --time)' if timed else ''}; or sweep another law, such as --drift lognormal:sigma=0"
        )
    return replace(hardware, drift=replace(drift, sigma=sigma))


def alike(hardware: Hardware) -> bool:
    """Whether all chips of the design are the same: nothing in it is random."""
    drift = hardware.drift
    still = drift is None or (getattr(drift, "sigma", None) == 0 and not isinstance(drift, RelaxationShift))
    parts = (hardware.programming, hardware.stuck, hardware.read_noise)
    adc = hardware.adc
    equal = adc is None or (adc.gain_sigma == 0 and adc.offset_sigma == 0)
    return still and equal and all(part is None for part in parts)


def _at_time(drift: Any, time: object) -> Any:
    if drift is not None and any(f.name == "time" for f in fields(drift)):
        return replace(drift, time=time)
    law = "no drift" if drift is None else f"{drift.kind} drift"
    raise InputError(
        f"time={show(time)} has nothing to act on: the design has {law}; "
        "laws with a time are retention, relaxation and measured_relaxation"
    )
