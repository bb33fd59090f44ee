import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from helpers.deployments import HARDWARE, deployment, report
from helpers.png import png_size
from matplotlib.figure import Figure
from torch import nn

from crossbar_sim.crossbar.devices import ProgrammingNoise, StuckCells
from crossbar_sim.crossbar.drift import LogNormalDrift
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.mapping import Differential, Offset
from crossbar_sim.errors import InputError
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.report import boundary_figure
from crossbar_sim.report.deploy_figure import ConductanceMap, _figure, conductance_maps, draw
from crossbar_sim.rng import Key
from crossbar_sim.robustness.examples import Examples
from crossbar_sim.robustness.score import Score

FULL = Hardware(
    mapping=Differential(g_min=1e-6, levels=32),
    programming=ProgrammingNoise(0.02),
    stuck=StuckCells(0.01, 0.01),
    drift=LogNormalDrift(0.3),
    tile=(32, 16),
)


def model() -> nn.Module:
    with seeded(Key(0).fold("initialisation")):
        return nn.Sequential(nn.Conv2d(4, 40, 3, groups=2), nn.Flatten(), nn.Linear(40, 10))


def a_map(name: str = "fc1") -> ConductanceMap:
    before = np.linspace(0, 1e-4, 48 * 64, dtype=np.float32).reshape(48, 64)
    return ConductanceMap(name, before, before * np.float32(1.5))


@pytest.mark.parametrize(
    "hardware",
    [FULL, replace(FULL, mapping=Offset(copies=2)), replace(FULL, bias="row"), HARDWARE],
)
@pytest.mark.parametrize("name", ["0", "2"])
def test_the_map_shows_the_cells_of_the_chip(hardware: Hardware, name: str) -> None:
    analog = to_analog(model(), hardware, seed=5, chip=3)
    found = conductance_maps(analog, name)
    assert found is not None
    slot, module = next((s, m) for s, m in chips.slots(analog) if s.layer == name)
    matrix = slot.columns(module).detach().numpy().T
    array = hardware.program(matrix, Key(5).fold(slot.name), 3)
    rows = min(hardware.tile[0], slot.rows, 128)
    cols = min(hardware.tile[1], slot.layout.cols, 128)
    assert found.name == name
    assert found.before.shape == (rows, cols)
    np.testing.assert_array_equal(found.before, array.programmed[0, :rows, :cols])
    np.testing.assert_array_equal(found.after, array.drifted[0, :rows, :cols])


def test_without_a_drift_law_the_map_is_target_and_programmed() -> None:
    hardware = replace(FULL, drift=None)
    analog = to_analog(model(), hardware)
    found = conductance_maps(analog)
    assert found is not None
    assert found.name == "0"
    assert (found.before != found.after).any()
    assert len(np.unique(found.before)) <= 32


def test_conductances_of_a_file_are_not_simulated_in_their_place() -> None:
    analog = to_analog(model(), HARDWARE)
    chips.analog_state(analog).set_maps(lambda name, columns: columns)
    assert conductance_maps(analog, "0") is None


def test_a_layer_of_several_matrices_is_named_by_its_weight() -> None:
    found = conductance_maps(to_analog(nn.LSTM(3, 5), HARDWARE))
    assert found is not None
    assert found.name == "weight_ih_l0"


def test_a_figure_has_the_width_of_a_page(tmp_path: Path) -> None:
    draw(deployment(), tmp_path / "a.png", a_map())
    draw(deployment(), tmp_path / "b.png")
    (width, high), (same, low) = png_size(tmp_path / "a.png"), png_size(tmp_path / "b.png")
    assert width == same == 1440
    assert high > low > 400
    assert os.listdir(tmp_path) in (["a.png", "b.png"], ["b.png", "a.png"])


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg", "PNG"])
def test_the_same_deployment_gives_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.{suffix}" for i in range(2)]
    for file in files:
        draw(deployment(), file, a_map())
    first, second = (file.read_bytes() for file in files)
    assert first == second
    assert {b"\x89PNG", b"%PDF", b"<?xm"} >= {first[:4]}
    assert str(tmp_path).encode() not in first
    assert b"Date" not in first


def test_the_users_own_style_and_state_are_left_alone(tmp_path: Path) -> None:
    draw(deployment(), tmp_path / "plain.png")
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9}):
        before = dict(matplotlib.rcParams)
        draw(deployment(), tmp_path / "styled.png")
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "styled.png").read_bytes()
    code = "import sys, crossbar_sim.report.deploy_figure; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0


VARIANTS: dict[str, dict[str, Any]] = {
    "one chip": {"chips": (3,), "scores": (Score(0.8, 0.8, 0.1),), "layers": (report("a", (0.1,)),)},
    "agreement": {
        "metric": "agreement",
        "clean": Score(None, 1.0, 0.0),
        "scores": tuple(Score(None, s / 20, 0.1) for s in range(20)),
    },
    "error": {
        "metric": "output_error",
        "clean": Score(None, None, 0.0),
        "scores": tuple(Score(None, None, s / 20) for s in range(20)),
        "threshold": None,
    },
    "all equal": {"scores": tuple(Score(0.981, 1.0, 0.0) for _ in range(20))},
    "no sensitivity": {"layers": (report("fc1", ()),)},
    "nothing mapped": {"layers": ()},
    "many long names": {
        "layers": tuple(report(f"backbone.feature_extractor.{i}.convolution") for i in range(40))
    },
    "odd names": {"layers": (report("$x_{"), report("重み\x1b[1m"))},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.filterwarnings("error")
def test_every_kind_of_report_can_be_drawn(variant: str, tmp_path: Path) -> None:
    maps = ConductanceMap("重み", np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32))
    draw(deployment(**VARIANTS[variant]), tmp_path / "figure.png", maps)
    assert png_size(tmp_path / "figure.png")[0] == 1440


@pytest.mark.parametrize("name", ["figure.jpg", "figure", "figure.png.exe"])
def test_an_unknown_format_is_refused_with_the_known_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.png, \.pdf, \.svg"):
        draw(deployment(), tmp_path / name)
    assert not any(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write") as caught:
        draw(deployment(), tmp_path / "missing" / "figure.png")
    assert "\n" not in str(caught.value)


def test_a_failure_leaves_the_old_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "figure.svg"
    path.write_text("old")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(InputError, match="No space left"):
        draw(deployment(), path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["figure.svg"]


def test_torch_is_not_asked_for_gradients(tmp_path: Path) -> None:
    analog = to_analog(model(), HARDWARE)
    with torch.enable_grad():
        assert conductance_maps(analog) is not None


def test_many_layers_leave_no_blank_space_below_the_chips(tmp_path: Path) -> None:
    layers = tuple(report(f"layer{i // 10}.{i}.conv") for i in range(60))
    figure = _figure(deployment(layers=layers), None)
    figure.draw_without_rendering()
    chips_panel, layers_panel = figure.subfigs[0].subfigs
    height = figure.get_size_inches()[1]
    bottom = [panel.axes[0].get_position().y0 * height for panel in (chips_panel, layers_panel)]
    assert bottom[0] < 0.3 < bottom[1]  # inches


@pytest.mark.filterwarnings("error")
def test_names_that_differ_only_in_the_middle_leave_room_for_the_panels(tmp_path: Path) -> None:
    layers = tuple(report(f"features_{'x' * 40}_{i}_{'y' * 40}") for i in range(20))
    figure = _figure(deployment(layers=layers), None)
    figure.draw_without_rendering()
    names = [text.get_text() for text in figure.subfigs[0].subfigs[1].axes[0].get_yticklabels()]
    assert len(set(names)) == len(names) == 15
    assert max(map(len, names)) < 36


@pytest.mark.parametrize("sigmas", [(0.6,), (0.0, 0.6), (0.0, 0.2, 0.4, 0.6)])
def test_the_heading_of_boundaries_fits_the_figure(
    sigmas: tuple[float, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[float, float]] = []

    def measure(figure: Figure, path: Path, *_: int) -> None:
        figure.draw_without_rendering()
        texts = [figure._suptitle, figure.axes[0].title]  # type: ignore[attr-defined]
        drawn.extend((text.get_window_extent().x1, figure.bbox.width) for text in texts)
        path.write_bytes(b"")

    monkeypatch.setattr(boundary_figure, "save", measure)
    with seeded(Key(0).fold("initialisation")):
        net = nn.Linear(2, 2)
    examples = Examples(torch.arange(40.0).sin().view(20, 2), torch.arange(20) % 2, {})
    boundary_figure.draw_boundaries(
        {"a": net}, HARDWARE, examples, tmp_path / "b.png", sigmas=sigmas, chips=(0, 1),
        title="Ways to train against drift, on two moons, with all the settings of the paper " * 2,
    )  # fmt: skip
    assert len(drawn) == 2
    assert all(end <= width for end, width in drawn)
