"""Energy, latency and area of a network on a design: a first-order estimate from counts (docs/cost.md).

Every array with work is read once a cycle; a layer's cycles follow each other, and so do the layers. A cycle's
energy is (drives, cells, samples, conversions) times what each costs, and the registers and the tile's share for
each array. Idle arrays take nothing; writing weights, memory off the chip and links between chips are not counted.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from crossbar_sim.crossbar.array import Geometry
from crossbar_sim.crossbar.cost.technology import LEAST_BITS, Technology, conversion_energy, converter_area
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.validate import require

PARTS = ("adc", "dac", "cells", "sample_hold", "shift_add", "registers", "tile")
"""The parts of energy and area, in the order of a report."""

ASSUMED_BITS = 8
"""Assumed resolution of a converter that is ideal in the design."""


@dataclass(frozen=True)
class Converters:
    """How the converters of a design are counted.

    Args:
        adc_bits, per_pair, share: of an ADC: see `ADC`.
        input_cycles: reads of the arrays for the magnitudes of one input vector: slices.
        phases: 2 where inputs below 0 take reads of their own.
        drive_bits: what a driver applies in one of them.
        notes: what was assumed where the design says nothing.
    """

    adc_bits: int
    per_pair: bool
    share: int
    input_cycles: int
    phases: int
    drive_bits: int
    notes: tuple[str, ...]

    @classmethod
    def of(cls, hardware: Hardware) -> "Converters":
        """The converters of a design."""
        notes = []
        adc, dac = hardware.adc, hardware.dac
        bits = None if adc is None else adc.bits
        if bits is None:
            notes.append(
                f"the design has no ADC or an ideal one: counted as {ASSUMED_BITS} bits (--adc-bits)"
            )
        share = hardware.tile[1] if adc is None else adc.share
        if adc is None:
            notes.append(f"one ADC for the {share} columns of a tile is assumed (--adc adc:bits=8,share=8)")
        inputs = None if dac is None else dac.bits
        if dac is None or inputs is None:
            notes.append(
                f"the design has no DAC or an ideal one: counted as {ASSUMED_BITS} one-bit reads (--dac-bits)"
            )
            cycles, drive = ASSUMED_BITS, 1
        else:
            cycles, drive = dac.slices, dac.slice_bits or dac.magnitude_bits
        phases = 1 if dac is None else dac.phases  # an ideal DAC drives two as well
        if (bits or ASSUMED_BITS) < LEAST_BITS:
            notes.append(
                f"the ADC survey begins at {LEAST_BITS} bits: a conversion of {bits} is counted as {bits}/{LEAST_BITS} "
                "of one of these, one comparison per bit"
            )
        pair = adc is None or adc.per == "pair"
        return cls(bits or ASSUMED_BITS, pair, share, cycles, phases, drive, tuple(notes))


@dataclass(frozen=True)
class Work:
    """The operations of a layer's arrays in one inference.

    Args:
        name: of the layer.
        arrays: tiles in use.
        cycles: of all its arrays, one after another: input vectors times input cycles.
        cells, drives, conversions: in one cycle.
    """

    name: str
    arrays: int
    cycles: int
    cells: int
    drives: int
    conversions: int

    @classmethod
    def of(cls, name: str, geometry: Geometry, hardware: Hardware, reads: int, signed: bool = True) -> "Work":
        """The work of a matrix that is multiplied with `reads` vectors.

        Args:
            geometry: its tiles; groups that share a reference column take turns.
            signed: whether inputs may be below 0: if not, a two-phase DAC needs one phase only.
        """
        converters, mapping = Converters.of(hardware), hardware.mapping
        phases = converters.phases if signed else 1
        high = -(-geometry.rows // geometry.tile[0])
        blocks = geometry.planes * high
        columns = geometry.groups * geometry.cols
        turns = geometry.groups if geometry.reference else 1
        read_out = columns // turns + (geometry.reference and not converters.per_pair)
        per = mapping.planes_per_copy if converters.per_pair and not geometry.reference else 1
        across = geometry.tiles // blocks if blocks else 0
        cells = geometry.cells if turns == 1 else geometry.planes * geometry.rows * (geometry.cols + 1)
        return cls(
            name, geometry.tiles, reads * converters.input_cycles * phases * turns, cells,
            geometry.planes * geometry.rows * across, blocks // per * read_out,
        )  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Energy, area and latency of one layer, or of all, for one inference.

    Args:
        name: of the layer.
        work: its counts.
        energy: J by part (PARTS).
        area: m2 by part.
        latency: s, one layer after the other, one copy of each.
    """

    name: str
    work: Work
    energy: dict[str, float]
    area: dict[str, float]
    latency: float

    @property
    def joules(self) -> float:
        """Energy of all parts."""
        return sum(self.energy.values())

    @property
    def square_metres(self) -> float:
        """Area of all parts."""
        return sum(self.area.values())

    @property
    def converter_share(self) -> float:
        """ADC and DAC as a fraction of the energy."""
        return (self.energy["adc"] + self.energy["dac"]) / self.joules if self.joules else 0.0

    @property
    def watts(self) -> float:
        """Mean power while the layer works."""
        return self.joules / self.latency if self.latency else 0.0

    def as_dict(self) -> dict[str, Any]:
        """The cost as JSON can hold it, in SI units."""
        w = self.work
        return {
            "name": self.name, "arrays": w.arrays, "cycles": w.cycles, "cells": w.cells,
            "drives_per_cycle": w.drives, "conversions_per_cycle": w.conversions,
            "energy_J": self.joules, "energy_parts_J": self.energy, "latency_s": self.latency,
            "area_m2": self.square_metres, "area_parts_m2": self.area, "converter_share": self.converter_share,
        }  # fmt: skip


def adc_of(
    converters: Converters, tile_columns: int, technology: Technology
) -> tuple[float, float, float, str]:
    """(energy of a conversion in J, area of a converter in m2, its rate in 1/s, source).

    One model for all bits, rates and nodes, so that designs are compared and not sources: the survey, scaled to meet
    the technology's own converter at its own bits, rate and node where it publishes one.
    """
    rate = min(converters.share, tile_columns) / technology["cycle"]
    node, bits = technology["node"], converters.adc_bits
    energy, area = conversion_energy(bits, node, rate), converter_area(bits, node, rate)
    own = technology.as_published  # also where values were replaced
    if not technology["adc_bits"]:
        return energy, area, rate, technology.survey
    at = int(own["adc_bits"]), own["node"], own["adc_rate"]
    energy *= technology["adc_power"] / technology["adc_rate"] / conversion_energy(*at)
    area *= technology["adc_area"] / converter_area(*at)
    source = next(c.source for c in technology.constants if c.name == "adc_power")
    if (bits, node) != at[:2] or not 0.8 <= rate / at[2] <= 1.01:
        source = f"{technology.survey}; scaled to meet the {at[0]}-bit converter of {source}"
    return energy, area, rate, source


def cost_of(work: Work, hardware: Hardware, technology: Technology) -> Cost:
    """The cost of one layer's work.

    Raises:
        InputError: if the ADC's rate or the node leaves the survey.
    """
    require(work.arrays >= 0, f"arrays={work.arrays} must be at least 0")
    converters, t = Converters.of(hardware), technology["cycle"]
    high, wide = hardware.tile
    conversion, converter, _, _ = adc_of(converters, wide, technology)
    adcs = -(-wide // converters.share)
    shift_add = technology["shift_add_power"] / technology["adc_rate"]
    cycle = {
        "adc": work.conversions * conversion,
        "dac": work.drives * technology["dac_power"] * converters.drive_bits * t,
        "cells": work.cells * technology["cell_power"] * t,
        "sample_hold": work.conversions * technology["sample_hold_power"] * t,
        "shift_add": work.conversions * shift_add,
        "registers": work.arrays * technology["register_power"] * t,
        "tile": work.arrays * technology["tile_power"] * t,
    }
    # A converter of pairs reads the tiles of both sides: each of them has its part of it.
    tiles = hardware.mapping.planes_per_copy if converters.per_pair else 1
    area = {
        "adc": adcs * converter / tiles,
        "dac": high * technology["dac_area"] * converters.drive_bits,
        "cells": high * wide * technology["cell_area"],
        "sample_hold": wide * technology["sample_hold_area"] / tiles,
        "shift_add": adcs * technology["shift_add_area"] / tiles,
        "registers": technology["register_area"],
        "tile": technology["tile_area"],
    }
    return Cost(
        work.name,
        work,
        {part: cycle[part] * work.cycles for part in PARTS},
        {part: area[part] * work.arrays for part in PARTS},
        work.cycles * t,
    )


def total(costs: list[Cost]) -> Cost:
    """The layers together: energies and areas add up, and so do latencies."""
    work = Work(
        "all", sum(c.work.arrays for c in costs), sum(c.work.cycles for c in costs), sum(c.work.cells for c in costs),
        sum(c.work.drives for c in costs), sum(c.work.conversions for c in costs),
    )  # fmt: skip
    energy = {part: sum(c.energy[part] for c in costs) for part in PARTS}
    area = {part: sum(c.area[part] for c in costs) for part in PARTS}
    return Cost("all", work, energy, area, sum(c.latency for c in costs))


ESTIMATE = (
    "An estimate to first order, from published components and counts: good for comparing designs, to a factor "
    "of two or so, not for signing one off."
)


@dataclass(frozen=True)
class Estimate:
    """The cost of one inference of a network on a design.

    Args:
        technology: the source of the component figures.
        layers, total: the cost of each matrix on arrays, and of all.
        adcs: for each design that matrices have: their names, the resolution of an ADC, and what it takes, see
            `adc_of`.
        notes: what was assumed or not counted.
    """

    technology: Technology
    layers: tuple[Cost, ...]
    total: Cost
    adcs: tuple[tuple[tuple[str, ...], int, tuple[float, float, float, str]], ...]
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls, works: Iterable[tuple[Work, Hardware]], technology: Technology, notes: tuple[str, ...] = ()
    ) -> "Estimate":
        """The cost of these works, each with the design of its matrix.

        Raises:
            InputError: if the ADC's rate or the node leaves the survey.
        """
        members: dict[Hardware, list[Work]] = {}
        layers = []
        for work, hardware in works:
            layers.append(cost_of(work, hardware, technology))
            members.setdefault(hardware, []).append(work)
        adcs = []
        for hardware, own in members.items():
            names, converters = tuple(work.name for work in own), Converters.of(hardware)
            adcs.append((names, converters.adc_bits, adc_of(converters, hardware.tile[1], technology)))
            before = f"{', '.join(names)}: " if len(members) > 1 else ""
            notes += tuple(f"{before}{note}" for note in converters.notes)
        return cls(technology, tuple(layers), total(layers), tuple(adcs), notes)

    def as_dict(self) -> dict[str, Any]:
        """The estimate as JSON, in SI units."""
        adcs = [
            {"bits": bits, "energy_J": energy, "area_m2": area, "rate_per_s": rate, "source": source}
            for _, bits, (energy, area, rate, source) in self.adcs
        ]
        arrays = [{"arrays": list(names)} for names, _, _ in self.adcs]
        each = [own | adc for own, adc in zip(arrays, adcs, strict=True)]
        return {
            "note": ESTIMATE,
            "technology": {"name": self.technology.name, "title": self.technology.title},
            "total": self.total.as_dict(),
            "layers": [cost.as_dict() for cost in self.layers],
            "adc": adcs[0],
            **({"adcs": each} if len(adcs) > 1 else {}),
            "constants": [
                {"name": c.name, "value": c.value, "unit": c.unit, "source": c.source}
                for c in self.technology.constants
            ],
            "notes": list(self.notes),
        }  # fmt: skip
