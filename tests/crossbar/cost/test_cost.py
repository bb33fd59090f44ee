"""Costs: ISAAC's published totals, the survey's figures, counts by hand, and what must grow with what."""

import itertools
from dataclasses import replace

import pytest

from crossbar_sim import Differential, Hardware, InputError, Offset
from crossbar_sim.crossbar.converters import ADC, DAC
from crossbar_sim.crossbar.cost import (
    PARTS,
    Converters,
    Work,
    adc_of,
    conversion_energy,
    converter_area,
    cost_of,
    technology,
    technology_names,
    total,
)

ISAAC = Hardware.preset("isaac")
FULL = Work("a tile", 96, 16_000, 96 * 128 * 128, 96 * 128, 96 * 128)
"""Every array of one ISAAC tile at work in every cycle."""


def test_isaacs_tile_takes_the_power_and_area_of_its_paper():
    """Shafiee et al., ISCA 2016, Table I: 330 mW and 0.372 mm2 for a tile, 289 mW and 0.157 mm2 of them in its 12 IMAs.

    Within 1 %; for the area of the IMAs 0.5 %. The paper's own parts add up to 329.8 mW.
    """
    cost = cost_of(FULL, ISAAC, technology("isaac"))
    assert cost.watts == pytest.approx(0.330, rel=0.01)
    assert cost.square_metres == pytest.approx(0.372e-6, rel=0.01)
    assert cost.watts - cost.energy["tile"] / cost.latency == pytest.approx(0.289, rel=0.01)
    assert cost.square_metres - cost.area["tile"] == pytest.approx(0.157e-6, rel=0.005)
    parts = {part: cost.energy[part] / cost.latency / 12 for part in PARTS}  # of one IMA
    assert parts["adc"] == pytest.approx(16e-3, rel=0.01)
    assert parts["dac"] == pytest.approx(4e-3, rel=0.01)
    assert parts["cells"] == pytest.approx(2.4e-3, rel=0.01)
    assert parts["shift_add"] == pytest.approx(0.2e-3, rel=0.01)
    assert parts["registers"] == pytest.approx(1.47e-3, rel=0.01)
    assert cost.converter_share == pytest.approx((192 + 48) / 330, rel=0.01)


def test_another_designs_tile_does_not():
    """The negative control: six-bit converters leave the published totals by more than the tolerance."""
    cost = cost_of(FULL, replace(ISAAC, adc=replace(ISAAC.adc, bits=6)), technology("isaac"))
    assert abs(cost.watts / 0.330 - 1) > 0.02


@pytest.mark.parametrize(
    ("bits", "node", "rate", "energy"),
    [
        (4, 32, 1e8, 0.92), (6, 32, 1e8, 1.07), (8, 32, 1e8, 1.71), (8, 32, 1.28e9, 1.93), (10, 32, 1e8, 3.31),
        (10, 32, 1.28e9, 16.4), (8, 22, 1e8, 0.85), (8, 65, 1e8, 6.49),
    ],
)  # fmt: skip
def test_the_survey_gives_the_energies_of_its_regression(bits, node, rate, energy):
    assert conversion_energy(bits, node * 1e-9, rate) == pytest.approx(energy * 1e-12, rel=0.006)


def test_the_survey_is_near_isaacs_converter():
    """8 bits at 1.28 GS/s in 32 nm: 1.93 pJ by the survey, 1.56 pJ in the paper."""
    assert conversion_energy(8, 32e-9, 1.28e9) == pytest.approx(2e-3 / 1.28e9, rel=0.25)
    assert converter_area(8, 32e-9, 1e8) == pytest.approx(3939e-12, rel=0.001)


def test_more_bits_a_coarser_process_and_a_higher_rate_never_cost_less():
    bits = [conversion_energy(b, 32e-9, 1e8) for b in range(2, 13)]
    assert bits == sorted(bits)
    assert bits[0] == pytest.approx(bits[2] / 2)  # one comparison per bit, each that of 4 bits
    nodes = [conversion_energy(8, n * 1e-9, 1e8) for n in (7, 22, 32, 65, 130)]
    assert nodes == sorted(nodes)
    rates = [conversion_energy(8, 32e-9, 10.0**e) for e in range(5, 11)]
    assert rates == sorted(rates)
    for node, rate in ((1e-9, 1e8), (32e-9, 1e12), (float("nan"), 1e8)):
        with pytest.raises(InputError, match="survey"):
            conversion_energy(8, node, rate)


def test_work_counted_by_hand():
    """300 x 100 weights in pairs on tiles of 128 x 64: 3 x 2 tiles in each of two planes."""
    hardware = Hardware(
        Differential(), tile=(128, 64), dac=DAC(7, slice_bits=2), adc=ADC(8, per="pair", share=8)
    )
    work = Work.of("x", hardware.geometry(300, 100), hardware, 5)
    assert work == Work("x", 12, 5 * 3, 2 * 300 * 100, 2 * 300 * 2, 3 * 100)
    by_column = replace(hardware, adc=ADC(8, per="column", share=8))
    assert Work.of("x", by_column.geometry(300, 100), by_column, 5).conversions == 2 * 3 * 100
    two = replace(hardware, dac=DAC(6, signed="two-phase", slice_bits=2))
    assert Work.of("x", two.geometry(300, 100), two, 5).cycles == 5 * 3 * 2
    assert Work.of("x", two.geometry(300, 100), two, 5, signed=False).cycles == 5 * 3


def test_work_with_slices_reference_columns_and_groups():
    offset = Hardware(
        Offset(levels=256, cell_bits=2), tile=(64, 64), dac=DAC(9, slice_bits=1), adc=ADC(8, per="column")
    )
    work = Work.of("x", offset.geometry(64, 63), offset, 1)  # 4 slices, the reference in the 64th column
    assert work == Work("x", 4, 8, 4 * 64 * 64, 4 * 64, 4 * 64)
    pair = replace(offset, adc=ADC(8, per="pair"))
    assert Work.of("x", pair.geometry(64, 63), pair, 1).conversions == 4 * 63
    grouped = Hardware(Differential(), tile=(64, 64), adc=ADC(8), dac=DAC(2, slice_bits=1))
    work = Work.of("x", grouped.geometry(9, 4, groups=6), grouped, 2)  # six tiles of their own in each plane
    assert (work.arrays, work.cycles, work.cells, work.drives, work.conversions) == (
        12,
        2,
        432,
        2 * 9 * 6,
        24,
    )


def test_energy_and_latency_are_in_proportion_to_the_reads():
    one, ten = (Work.of("x", ISAAC.geometry(200, 90), ISAAC, n) for n in (1, 10))
    a, b = (cost_of(work, ISAAC, technology("isaac")) for work in (one, ten))
    assert b.joules == pytest.approx(10 * a.joules)
    assert b.latency == pytest.approx(10 * a.latency)
    assert b.square_metres == a.square_metres
    both = total([a, b])
    assert both.joules == pytest.approx(11 * a.joules)
    assert both.square_metres == pytest.approx(2 * a.square_metres)
    assert sum(both.as_dict()["energy_parts_J"].values()) == pytest.approx(both.as_dict()["energy_J"])


@pytest.mark.parametrize("name", ["isaac", "prime"])
@pytest.mark.parametrize("node", [32e-9, 90e-9])
@pytest.mark.parametrize(("cycle", "share"), [(1e-8, 1), (1e-7, 8), (1e-7, 127), (1e-7, 128), (1e-6, 128)])
def test_fewer_bits_never_cost_more(name, node, cycle, share):
    """One model for all numbers of bits, the published one among them: a sweep compares designs, not sources."""
    chosen = technology(name).replaced("node", node, "given").replaced("cycle", cycle, "given")
    hardware = Hardware.preset(name)
    each = []
    for bits in range(1, 13):
        adc = replace(hardware.adc, bits=bits, share=share, per="column", encoding=None, range=1.0)
        design = replace(hardware, adc=adc)
        cost = cost_of(Work.of("x", design.geometry(512, 512), design, 1), design, chosen)
        each.append((cost.square_metres, cost.joules))
    for fewer, more in itertools.pairwise(each):
        assert fewer[0] < more[0]
        assert fewer[1] < more[1]


def test_neighbouring_rates_and_processes_cost_about_the_same():
    """The published converter is a point of the model, not another model."""
    chosen = technology("isaac")
    here = adc_of(Converters.of(ISAAC), 128, chosen)
    for near in (
        adc_of(Converters.of(replace(ISAAC, adc=replace(ISAAC.adc, share=100))), 128, chosen),
        adc_of(Converters.of(ISAAC), 128, chosen.replaced("node", 33e-9, "given")),
        adc_of(Converters.of(ISAAC), 128, chosen.replaced("cycle", 130e-9, "given")),
    ):
        assert near[:2] == pytest.approx(here[:2], rel=0.25)


def test_prime_has_eight_sense_amplifiers_for_each_mat():
    """Chi et al., section V-A; with one for each column the converters would take most of the area."""
    hardware = Hardware.preset("prime")
    assert hardware.tile[1] // hardware.adc.share == 8
    cost = cost_of(Work.of("x", hardware.geometry(512, 512), hardware, 1), hardware, technology("prime"))
    assert cost.square_metres * 1e6 == pytest.approx(0.86, rel=0.02)


def test_the_published_converter_is_taken_where_it_was_published_and_scaled_elsewhere():
    chosen = technology("isaac")
    energy, area, rate, source = adc_of(Converters.of(ISAAC), 128, chosen)
    assert (energy, area, rate) == (pytest.approx(1.5625e-12), pytest.approx(1200e-12), pytest.approx(1.28e9))
    assert "Table I" in source
    for adc in (replace(ISAAC.adc, bits=7), replace(ISAAC.adc, share=8)):
        *_, source = adc_of(Converters.of(replace(ISAAC, adc=adc)), 128, chosen)
        assert "Murmann" in source
    *_, source = adc_of(Converters.of(Hardware.preset("prime")), 256, technology("prime"))
    assert "Murmann" in source


def test_another_process_scales_the_converter_as_the_survey_does():
    chosen = technology("isaac").replaced("node", 65e-9, "given")
    energy, area, rate, source = adc_of(Converters.of(ISAAC), 128, chosen)
    assert "Murmann" in source
    by = conversion_energy(8, 65e-9, rate) / conversion_energy(8, 32e-9, rate)
    assert energy == pytest.approx(2e-3 / 1.28e9 * by)
    assert area == pytest.approx(1200e-12 * converter_area(8, 65e-9, rate) / converter_area(8, 32e-9, rate))


def test_the_two_tiles_of_a_pair_share_their_converters():
    by = {}
    for per in ("pair", "column"):
        hardware = Hardware(Differential(0, 1e-4), dac=DAC(8), adc=ADC(8, per=per, share=128))
        by[per] = cost_of(
            Work.of("x", hardware.geometry(128, 128), hardware, 1), hardware, technology("isaac")
        )
    for part in ("adc", "sample_hold", "shift_add"):
        assert by["column"].area[part] == pytest.approx(2 * by["pair"].area[part])
        assert by["column"].energy[part] == pytest.approx(2 * by["pair"].energy[part])
    assert by["column"].area["dac"] == by["pair"].area["dac"]


def test_an_ideal_dac_of_two_phases_reads_twice():
    hardware = Hardware(dac=DAC(bits=None, signed="two-phase"))
    assert Work.of("x", hardware.geometry(8, 8), hardware, 1).cycles == 2 * 8
    assert Work.of("x", hardware.geometry(8, 8), hardware, 1, signed=False).cycles == 8


def test_what_a_design_leaves_ideal_is_assumed_and_said():
    assert Converters.of(ISAAC).notes == ()
    told = " ".join(Converters.of(Hardware()).notes)
    assert "no ADC" in told
    assert "no DAC" in told
    assert "begins at 4 bits" in Converters.of(replace(ISAAC, adc=ADC(2))).notes[0]


def test_every_constant_has_a_unit_and_a_source():
    assert technology_names() == ("isaac", "prime")
    for name in technology_names():
        chosen = technology(name)
        assert chosen.survey
        for constant in chosen.constants:
            assert constant.unit
            assert len(constant.source) > 20
    assert technology("prime")["tile_rows"] == 256
    assert technology("prime")["cell_power"] == technology("isaac")["cell_power"]
    replaced = technology("isaac").replaced("node", 65e-9, "given")
    assert replaced["node"] == 65e-9
    with pytest.raises(InputError, match="known: isaac, prime"):
        technology("tsmc")
