import os
import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from helpers.made_sweeps import sweep
from helpers.png import png_size
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossbar_sim.errors import InputError
from crossbar_sim.report.sweep_figures import draw_curves, draw_figures
from crossbar_sim.robustness.sweep import Sweep

ALL = {
    f"{name}{suffix}"
    for name in ("curves", "differences", "yield", "sensitivity")
    for suffix in (".pdf", ".png", ".svg")
}


def test_a_figure_has_the_width_of_a_column(tmp_path: Path) -> None:
    for path in draw_figures(sweep(), tmp_path / "new" / "figures"):
        if path.suffix == ".png":
            width, height = png_size(path)
            assert width == 1020
            assert 300 < height < 1500
    assert set(os.listdir(tmp_path / "new" / "figures")) == ALL


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg", "SVG"])
def test_the_same_sweep_gives_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.{suffix}" for i in range(2)]
    for file in files:
        draw_curves(sweep(), file, threshold=0.9)
    first, second = (file.read_bytes() for file in files)
    assert first == second
    assert b"Date" not in first
    assert str(tmp_path).encode() not in first


def test_text_in_svg_is_text(tmp_path: Path) -> None:
    draw_figures(sweep(("erm", "a<b & c")), tmp_path)
    text = (tmp_path / "curves.svg").read_text(encoding="utf-8")
    for word in ("sigma of ln g", "accuracy (%)", ">erm<", ">a&lt;b &amp; c<"):
        assert word in text
    assert "http://" not in re.sub(r"http://(www\.w3\.org|purl\.org|creativecommons\.org)[^\"]*", "", text)


def test_curves_show_means_and_intervals() -> None:
    made = sweep()
    figure = draw_curves(made)
    (axes,) = figure.axes
    for line, label in zip(axes.get_lines(), made.labels, strict=True):
        points = made.curve(label)
        assert line.get_xdata().tolist() == [p.sigma for p in points]  # type: ignore[union-attr]
        assert line.get_ydata().tolist() == pytest.approx([100 * p.summary.mean for p in points])  # type: ignore[union-attr]
    band = axes.collections[0].get_paths()[0].vertices
    ends = [100 * end for p in made.curve("erm") for end in (p.summary.ci95 or ())]
    assert {round(float(y), 6) for _, y in band} >= {round(end, 6) for end in ends}
    assert (
        len({(line.get_color(), line.get_linestyle(), line.get_marker()) for line in axes.get_lines()}) == 2
    )


def test_an_error_is_drawn_as_the_error_it_is() -> None:
    figure = draw_curves(sweep(metric="output_error"), threshold=0.2)
    (axes,) = figure.axes
    assert axes.get_ylabel() == "relative output error (%)"
    assert min(axes.get_lines()[0].get_ydata()) >= 0  # type: ignore[arg-type]


def test_sigmas_in_siemens_are_drawn_in_microsiemens() -> None:
    figure = draw_curves(sweep(sigmas=(0.0, 1e-5, 2e-5), law="normal_shift"))
    (axes,) = figure.axes
    assert axes.get_xlabel() == "sigma of the drift (µS)"
    assert max(axes.get_lines()[0].get_xdata()) == pytest.approx(20)  # type: ignore[arg-type]


def drawn(name: str, made: Sweep, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Axes:
    """The axes of one of `draw_figures`."""
    found: dict[str, Axes] = {}
    real = Figure.savefig

    def keep(figure: Figure, path: Any, **options: Any) -> None:
        found.setdefault(Path(path).name.removeprefix(".").partition(".")[0], figure.axes[0])
        real(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    draw_figures(made, folder)
    return found[name]


@pytest.mark.parametrize(("metric", "style"), [("accuracy", "steps-pre"), ("output_error", "steps-post")])
def test_yield_is_drawn_as_the_steps_that_it_is(
    metric: str, style: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = sweep(metric=metric)
    axes = drawn("yield", made, tmp_path, monkeypatch)
    sigma, sign = float(axes.get_title(loc="left").split()[-1]), 1 if metric == "accuracy" else -1
    for line, label in zip(axes.get_lines(), made.labels, strict=False):
        (point,) = [p for p in made.curve(label) if p.sigma == sigma]
        assert (line.get_drawstyle(), line.get_marker()) == (style, "")
        x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        assert {sign * 100 * v for v in point.values} <= {*x.tolist()}
        for limit in np.linspace(x[0], x[-1], 97):  # between the chips' scores as well
            side = "left" if style == "steps-pre" else "right"
            place = np.searchsorted(x, limit, side) - (side == "right")
            assert y[place] == pytest.approx(100 * point.passing(sign * limit / 100).value)


def test_an_exact_difference_is_a_filled_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = drawn("differences", sweep(), tmp_path, monkeypatch)
    marks = [line for line in axes.get_lines() if len(line.get_xdata()) == 1 and line.get_marker() != "None"]  # type: ignore[arg-type]
    assert marks[0].get_xdata()[0] == pytest.approx(0, abs=0.2)  # type: ignore[index]
    assert marks[0].get_markerfacecolor() == marks[0].get_color()
    assert "exact" in axes.get_xlabel()
    with monkeypatch.context() as again:  # one chip is not known to be exact
        axes = drawn("differences", sweep(chips=1), tmp_path, again)
    assert "exact" not in axes.get_xlabel()
    assert axes.get_lines()[1].get_markerfacecolor() == "white"


VARIANTS: dict[str, dict[str, Any]] = {
    "one model": {"labels": ("a",)},
    "one chip": {"chips": 1},
    "one sigma": {"sigmas": (0.6,)},
    "one of all": {"labels": ("a",), "chips": 1, "sigmas": (0.6,)},
    "many": {
        "labels": [f"a model with a long name {i}" for i in range(10)],
        "sigmas": [0.1 * i for i in range(20)],
    },
    "error": {"metric": "output_error"},
    "odd names": {"labels": ("$x_{", "重み\x1b[1m", "", "x" * 3000)},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.filterwarnings("error")
def test_every_kind_of_sweep_can_be_drawn(variant: str, tmp_path: Path) -> None:
    arguments = VARIANTS[variant]
    written = {path.name for path in draw_figures(sweep(**arguments), tmp_path)}
    assert ("differences.svg" in written) == (len(arguments.get("labels", "ab")) > 1)
    assert ("yield.svg" in written) == (arguments.get("chips") != 1)
    assert written == set(os.listdir(tmp_path))


def test_without_sensitivity_there_is_no_figure_of_it(tmp_path: Path) -> None:
    written = {path.stem for path in draw_figures(sweep(known=False), tmp_path)}
    assert written == {"curves", "differences", "yield"}


def test_the_users_own_style_is_left_alone(tmp_path: Path) -> None:
    draw_curves(sweep(), tmp_path / "plain.png")
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9}):
        before = dict(matplotlib.rcParams)
        draw_curves(sweep(), tmp_path / "styled.png")
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "styled.png").read_bytes()


@pytest.mark.parametrize("name", ["figure.jpg", "figure"])
def test_an_unknown_format_is_refused_with_the_known_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.png, \.pdf, \.svg"):
        draw_curves(sweep(), tmp_path / name)
    assert not any(tmp_path.iterdir())


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make the directory") as caught:
        draw_figures(sweep(), tmp_path / "file" / "figures")
    assert "\n" not in str(caught.value)


def test_a_sweep_without_a_trial_is_refused() -> None:
    made = sweep()
    with pytest.raises(InputError, match="no trial"):
        draw_curves(Sweep(made.tasks, dict.fromkeys(made.curves, ()), {}))


def test_a_failure_leaves_the_old_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "figure.svg"
    path.write_text("old")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(InputError, match="No space left"):
        draw_curves(sweep(), path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["figure.svg"]
