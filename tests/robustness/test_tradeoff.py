"""Trade-offs: combinations, scores as `deploy` gives them, costs as `cost` gives them, and the front."""

import csv
import json

import pytest
import torch
from torch import nn

from crossbar_sim import Hardware
from crossbar_sim.crossbar import cost
from crossbar_sim.errors import InputError
from crossbar_sim.report.tradeoff_rows import _dominates
from crossbar_sim.robustness.array_work import cost_of_model
from crossbar_sim.robustness.tradeoff import Choice, candidates


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("adc_bits=4:6", {"4": 4, "5": 5, "6": 6}),
        ("adc-bits=4,none", {"4": 4, "none": None}),
        ("sigma=0:0.3:4", {"0": 0, "0.1": 0.1, "0.2": 0.2, "0.3": 0.3}),
        ("tile=64,32x16", {"64": (64, 64), "32x16": (32, 16)}),
        ("bias=row", {"row": "row"}),
    ],
)
def test_values_of_a_parameter(text, values):
    assert Choice.of(text).values == values


def test_parts_of_a_design_are_separated_by_semicolons():
    found = Choice.of("adc=adc:bits=4,range=max;none").values
    assert found["none"] is None
    assert found["adc:bits=4,range=max"].bits == 4


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["adc_bit=4:8"], "did you mean 'adc_bits'"),
        (["adc_bits"], "expected values"),
        (["adc_bits=4,,5"], "expected values"),
        (["adc_bits=8:4"], "first <= last"),
        (["adc_bits=5,5"], "5 is given twice"),
        (["sigma=0:x:3"], "first:last:points"),
        (["ranges=1"], "unknown"),
        ([], "varies at least one"),
        (["adc_bits=4:5", "adc-bits=6"], "varied twice"),
        (["adc_bits=1:100", "levels=2:60"], "100 x 59 = 5900 combinations: at most 500"),
        (["bias=foo"], "none of the 1 combinations is a design: bias=foo"),
    ],
)
def test_what_cannot_be_varied_is_one_sentence(texts, words):
    with pytest.raises(InputError, match=words):
        candidates(Hardware(), [Choice.of(text) for text in texts])


def test_every_combination_once_and_the_impossible_with_the_reason():
    found = candidates(Hardware(), [Choice.of("copies=0,2"), Choice.of("levels=4,8")])
    assert [c.label for c in found] == [
        "copies=0 levels=4", "copies=0 levels=8", "copies=2 levels=4", "copies=2 levels=8"
    ]  # fmt: skip
    assert "copies=0" in found[0].impossible
    assert found[3].design.mapping.copies == 2
    assert found[3].design.mapping.levels == 8


def test_the_front_is_what_nothing_dominates():
    points = [(0.9, 1.0), (0.8, 1.0), (0.9, 2.0), (0.95, 2.0), (0.95, 2.0)]
    front = [not any(_dominates(b, a) for b in points) for a in points]
    assert front == [True, False, False, True, True]


def test_scores_are_those_of_deploy_and_costs_those_of_cost_and_a_second_run_measures_nothing(
    command, files, tmp_path
):
    common = [files.checkpoint, "--preset", "isaac", "--sigma", 0.2, "--chips", 2, "--images", 100]
    vary = ["--vary", "adc_bits=4,8,99", "--results", tmp_path / "t.db", "--json", "-"]
    done = command("tradeoff", *common, *vary, "--csv", tmp_path / "t.csv", "--plot", tmp_path / "t.png")
    assert done.code == 0, done.err
    four, eight, none = done.report["combinations"]
    assert "1 .. 24 bits" in none["impossible"]
    assert four["energy"] < eight["energy"]
    assert "impossible: adc_bits=99" in done.err
    alone = command("deploy", *common, "--adc-bits", 8, "--sensitivity-chips", 0, "--json", "-").report
    assert eight["score"] == pytest.approx(alone["drifted"]["accuracy"]["mean"])
    assert eight["ci95"] == pytest.approx(alone["drifted"]["accuracy"]["ci95"])
    alone = command("cost", files.checkpoint, "--preset", "isaac", "--adc-bits", 8, "--json", "-").report
    assert (eight["energy"], eight["area"]) == (alone["total"]["energy_J"], alone["total"]["area_m2"])
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [row["adc_bits"] for row in rows] == ["4", "8", "99"]
    assert float(rows[0]["energy_J"]) == four["energy"]
    assert (tmp_path / "t.png").stat().st_size > 5000
    listed = json.loads(command("results", tmp_path / "t.db", "--format", "json").out or "[]")
    again = command("tradeoff", *common, *vary)
    assert again.report == done.report
    assert json.loads(command("results", tmp_path / "t.db", "--format", "json").out or "[]") == listed


def test_a_parameter_without_effect_is_reported(command, files):
    done = command(
        "tradeoff", files.checkpoint, "--sigma", 0.2, "--chips", 1, "--images", 50, "--vary", "g_max=1e-4,2e-4"
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "g_max was varied but changes no score" in done.out


def technology(tmp_path, text: str):
    (tmp_path / "mine.toml").write_text(text)
    return cost.technology(tmp_path / "mine.toml")


ENTRY = '[cell_power]\nvalue = 1e-7\nunit = "W"\nsource = "the lab"\n'


def test_a_technology_of_ones_own_and_the_cost_of_a_model_in_memory(tmp_path):
    mine = technology(tmp_path, f'title = "mine"\nbase = "isaac"\n{ENTRY}')
    isaac = cost.technology("isaac")
    assert mine["cell_power"] == 1e-7
    assert mine["dac_power"] == isaac["dac_power"]
    model, x = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10)), torch.zeros(2, 64)
    ours, theirs = cost_of_model(model, "isaac", x, mine), cost_of_model(model, "isaac", x)
    ratio = 1e-7 / isaac["cell_power"]
    assert ours.total.energy["cells"] == pytest.approx(ratio * theirs.total.energy["cells"])
    assert ours.total.energy["adc"] == theirs.total.energy["adc"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ENTRY, "title=None"),
        (f'title = "m"\nbase = "isac"\n{ENTRY}', "did you mean 'isaac'"),
        ('title = "m"\n' + ENTRY.replace("cell_power", "cell_powr"), "did you mean 'cell_power'"),
        ('title = "m"\n' + ENTRY.replace('"W"', '"uW"'), "the value is in 'W'"),
        ('title = "m"\n' + ENTRY.replace("1e-7", "-1.0"), "cell_power.value=-1.0"),
        ('title = "m"\n' + ENTRY.replace("1e-7", '"1"'), "cell_power.value='1'"),
        ('title = "m"\n' + ENTRY.replace('"the lab"', '""'), "say where it is from"),
        ('title = "m"\n' + ENTRY + "more = 1\n", "and nothing else"),
        ('title = "m"\ncell_power = 1.0\n', "a table with value, unit and source"),
        ('title = "m"\n[node]\nvalue = 1.0\nunit = "m"\nsource = "x"\n', "node.value=1.0"),
        ("title = [", "the TOML cannot be read"),
    ],
)
def test_a_file_that_is_no_technology_is_one_sentence(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        technology(tmp_path, text)
