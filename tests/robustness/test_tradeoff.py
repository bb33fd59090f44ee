"""Trade-offs: combinations, scores as `deploy` gives them, costs as `cost` gives them, and the front."""

import csv
import json
import statistics

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

import crossbar_sim
from crossbar_sim import GammaDrift, Hardware, Key, LogNormalDrift, MeasuredRelaxation, RetentionDrift
from crossbar_sim.crossbar import cost
from crossbar_sim.crossbar.layer_designs import LayerDesigns, Overrides
from crossbar_sim.errors import InputError
from crossbar_sim.nn.files.loading import load_model
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.robustness.array_work import cost_of_model
from crossbar_sim.robustness.calibration import Calibration
from crossbar_sim.robustness.sweep import Sweep
from crossbar_sim.robustness.tradeoff import Choice, candidates, dominates
from crossbar_sim.store.results import Results


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
    front = [not any(dominates(b, a) for b in points) for a in points]
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


def linear():
    with seeded(Key(0)):
        return nn.Sequential(nn.Linear(64, 10)), (torch.rand(60, 64), torch.arange(60) % 10)


def points(result):
    return [(each.candidate.label, each.point.values, each.cost.joules) for each in result.measured]


def test_the_call_from_python_is_the_command(command, files, tmp_path):
    base = Hardware.preset("bayesft", sigma=0.4, adc_range="calibrated", dac_bits=8)
    vary = {"adc_bits": [4, None], "tile": [(64, 64), "32x32"]}
    found = crossbar_sim.tradeoff(
        load_model(files.checkpoint).module, "digits", base, vary, chips=2, against="area"
    )
    design = ["--sigma", 0.4, "--adc-range", "calibrated", "--dac-bits", 8]
    varied = ["--vary", "adc_bits=4,none", "--vary", "tile=64x64,32x32", "--against", "area"]
    done = command("tradeoff", files.checkpoint, *design, *varied, "--chips", 2, "--json", "-")
    assert done.code == 0, done.err
    listed = done.report["combinations"]
    assert [each.point.summary.mean for each in found.measured] == [each["score"] for each in listed]
    assert [each.cost.square_metres for each in found.measured] == [each["area"] for each in listed]
    assert list(found.front) == [each["front"] for each in listed]
    frame = found.to_dataframe()
    assert list(frame["adc_bits"]) == [4, 4, "none", "none"]
    assert list(frame["value"]) == [each["score"] for each in listed]
    assert len(repr(found)) < 120
    assert "against area" in found._repr_html_()
    figure, ax = plt.subplots()
    assert found.plot(tmp_path / "t.svg", ax=ax) is figure
    assert "area" in ax.get_xlabel()
    plt.close(figure)


def test_designs_that_differ_in_sigma_alone_are_one_curve_of_a_results_file(tmp_path):
    model, data = linear()
    found = crossbar_sim.tradeoff(
        model, data, vary={"levels": [4, None], "sigma": "0.2:0.6:2"}, chips=2, results=tmp_path / "t.db"
    )
    with Results.open(tmp_path / "t.db") as file:
        curves = Sweep.read(file).curves
    assert list(curves) == ["levels=4", "levels=none"]
    assert [p.values for points in curves.values() for p in points] == [
        each.point.values for each in found.measured
    ]


def test_workers_and_their_number_change_nothing():
    distributed = pytest.importorskip("distributed")
    model, data = linear()
    given = (model, data, Hardware.preset("bayesft", sigma=0.5), {"levels": [4, 8], "copies": "1:2"})
    alone = crossbar_sim.tradeoff(*given, chips=5)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None, silence_logs=50
    ) as local:
        spread = crossbar_sim.tradeoff(*given, chips=5, scheduler=local.scheduler_address)
    assert points(spread) == points(alone)


def test_chips_are_calibrated_as_those_of_deploy():
    model, data = linear()
    more = {"calibrate": "affine+readout", "calibration_data": {"train": data, "validation": data}}
    more["calibrate"] = Calibration(more["calibrate"], images=40)
    found = crossbar_sim.tradeoff(model, data, "bayesft", {"sigma": [0.4, 0.8]}, chips=2, **more)
    alone = crossbar_sim.deploy(
        model, *data, Hardware.preset("bayesft", sigma=0.8), chips=2, sensitivity_chips=0, **more
    )
    assert found.measured[1].point.values == tuple(score.accuracy for score in alone.scores)
    assert alone.main.mean != pytest.approx(statistics.mean(score.accuracy for score in alone.uncalibrated))


@pytest.mark.parametrize("preset", ["isaac", "prime"])
def test_converters_of_all_widths_are_of_one_model(preset):
    """Energy and area of the ADCs differ by the survey's ratio alone, whatever converter was published."""
    model, data = linear()
    found = crossbar_sim.tradeoff(
        model, data, preset, {"adc_bits": "4:10", "adc_range": ["max"], "dac_bits": [8]}, chips=1,
    )  # fmt: skip
    technology = cost.technology(preset)
    hardware = [each.candidate.design for each in found.measured]
    rates = {cost.adc_of(cost.Converters.of(one), one.tile[1], technology)[2] for one in hardware}
    assert len(rates) == 1
    node, rate = technology["node"], rates.pop()
    for part, of_survey in (("energy", cost.conversion_energy), ("area", cost.converter_area)):
        ratios = [
            getattr(each.cost, part)["adc"] / of_survey(bits, node, rate)
            for each, bits in zip(found.measured, range(4, 11), strict=True)
        ]
        assert ratios == pytest.approx([ratios[0]] * 7)
    energies = [each.cost.joules for each in found.measured]
    assert energies == sorted(energies)


MEASURED = MeasuredRelaxation(
    time=10, reference=1e-5, mean_per_ln=(1e-8,), spread=(1e-6,), spread_per_ln=(1e-7,)
)
RETENTION = RetentionDrift(time=100, nu=0.05, nu_sigma=0.05)


@pytest.mark.parametrize(
    ("design", "vary"),
    [
        (Hardware(drift=GammaDrift(0.3)), {"levels": [4]}),
        (Hardware(drift=RETENTION), {"time": [10, 1e4]}),
        (Hardware(drift=RETENTION), {"adc_bits": [4], "adc_range": ["max"], "dac_bits": [6]}),
        (Hardware(drift=MEASURED), {"levels": [4]}),
        (LayerDesigns(Hardware(drift=RETENTION), (("0", Overrides((("levels", 4),))),)), {"copies": [2]}),
        (LayerDesigns(Hardware(drift=RETENTION), (("2", "digital"),)), {"levels": [4]}),
    ],
)
def test_a_design_is_evaluated_with_any_drift_law_as_it_is(design, vary):
    with seeded(Key(0)):
        model = nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)).eval()
    _, (x, y) = linear()
    found = crossbar_sim.tradeoff(model, (x, y), design, vary, chips=3)
    for each in found.measured:
        alone = crossbar_sim.deploy(model, x, y, each.candidate.design, chips=3, sensitivity_chips=0)
        assert each.point.values == tuple(score.accuracy for score in alone.scores)


@pytest.mark.parametrize("middle", [nn.ReLU(), nn.LayerNorm(12)])
def test_a_law_without_sigma_names_no_pattern_that_nobody_wrote(middle):
    with seeded(Key(0)):  # with and without a layer that no pattern names
        model = nn.Sequential(nn.Linear(64, 12), middle, nn.Linear(12, 10)).eval()
    layers = tuple((name, Overrides((("levels", 4),))) for name in ("0", "2"))
    found = crossbar_sim.tradeoff(
        model, linear()[1], LayerDesigns(Hardware(drift=RETENTION), layers), {"copies": [2]}, chips=1
    )
    assert found.measured[0].point is not None
    assert not [sentence for sentence in found.cautions if "'*'" in sentence]


def test_a_percentile_of_the_chips_is_in_the_table_the_csv_and_the_json(command, files, tmp_path):
    chosen = [
        "--sigma",
        0.4,
        "--vary",
        "levels=4,8",
        "--chips",
        4,
        "--images",
        60,
        "--csv",
        tmp_path / "t.csv",
    ]
    done = command("tradeoff", files.checkpoint, *chosen, "--percentile", 20, "--json", "-")
    assert "all but 20 %" in done.err
    assert "the score that 80 % of the chips reach" in done.err
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    for row, found in zip(rows, done.report["combinations"], strict=True):
        alone = command(
            "deploy", files.checkpoint, "--sigma", 0.4, "--levels", row["levels"], "--chips", 4, "--images", 60,
            "--sensitivity-chips", 0, "--percentile", 20, "--json", "-",
        ).report["percentile"]  # fmt: skip
        assert found["percentile"] == {name: alone[name] for name in ("percent", "value", "ci95")}
        assert float(row["percentile"]) == alone["value"]
    plain = command("tradeoff", files.checkpoint, *chosen, "--json", "-")
    assert "percentile" not in plain.report["combinations"][0]
    assert "all but" not in plain.err


def test_a_percentile_of_an_error_is_its_upper_quantile():
    (model, (x, _)) = linear()
    found = crossbar_sim.tradeoff(
        model, x, Hardware(drift=LogNormalDrift(0.3)), {"levels": [4]}, chips=5, metric="output_error"
    )
    value, low, high = found.measured[0].percentile(20)
    errors = sorted(-score for score in found.measured[0].point.values)
    assert value == pytest.approx(statistics.quantiles(errors, n=5, method="inclusive")[3])
    assert low is None or high is None or low <= value <= high
    assert found.to_dataframe(20)["percentile"][0] == value


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"vary": None}, "vary: expected parameters"),
        ({"vary": {"adc_bit": [4]}}, "did you mean 'adc_bits'"),
        ({"vary": {"adc_bits": 4}}, r"expected a list such as \[4, 6, 8\]"),
        ({"vary": {"adc_bits": []}}, "adc_bits has no value"),
        ({"vary": {"levels": [4, 4.0]}}, "4 is given twice"),
        ({"vary": {"levels": [4]}, "against": "power"}, "known: energy, latency, area"),
        ({"vary": {"adc_bits": [4]}}, "adc_bits=4: the range of a converter is 'calibrated'"),
    ],
)
def test_a_wrong_call_is_one_sentence(given, words):
    with pytest.raises(InputError, match=words):
        crossbar_sim.tradeoff(*linear(), **given)


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
