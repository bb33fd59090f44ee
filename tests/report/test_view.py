import io
import re
import time
from typing import Any

import pytest
from helpers.deployments import HARDWARE, SCORES, deployment, report
from rich.console import Console
from rich.table import Table
from rich.text import Text

from crossbar_sim.nn.analog.state import Layer
from crossbar_sim.report import console as consoles
from crossbar_sim.report.console import progress, say
from crossbar_sim.report.deployment_terminal import show
from crossbar_sim.report.formatting import decimals, fixed, shorten
from crossbar_sim.robustness.deploy import Deployment, LayerReport
from crossbar_sim.robustness.score import Score


def shown(what: Deployment, width: int = 80, encoding: str = "utf-8", **options: Any) -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    show(what, Console(file=file, width=width, **options))
    file.flush()
    return file.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


def joined(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_places_of_an_example_are_named_as_what_they_are() -> None:
    judged = {"unit": "token", "class_axis": -1, "classes": 5, "count": 900, "ignored": 0}
    for metric, unit, said in (
        ("accuracy", "token", "of tokens right"),
        ("agreement", "pixel", "of pixels"),
        ("output_error", "token", "the outputs differ"),
    ):
        text = joined(shown(deployment(metric=metric, threshold=None, judged={**judged, "unit": unit})))
        assert said in text.partition("spread")[0]
        assert "of images" not in text.partition("spread")[0]
    assert "of images right" in joined(shown(deployment()))


GOLDEN = """\
On 20 chips the model keeps 82.3 % of images right (95 % interval 75.8 to
88.8 %), from 98.1 % clean.

spread     14 points between chips (standard deviation)
worst      60.0 % (chip 19)
best       93.0 % (chip 13)
quantiles  5 %: 61.9   25 %: 62.0   50 %: 91.0   75 %: 91.0   95 %: 91.1  (in %)
yield      14 of 20 chips reach 90.0 %: yield 70 % (48 to 85 %)
also       agreement with the clean model 83.3 %, relative output error 17.7 %
           (means)
hardware   differential 0 to 100 µS; LogNormalDrift(sigma=0.6) per weight
chips      0 to 19 of seed 0
arrays     2 layers on 4 tiles of 128×128, 7,424 cells, 11 % in use
digital    norm: an affine normalisation

                rows ×                   in   changed    drop alone
layer  kind    columns  tiles  cells    use  by drift      (points)
fc1    Linear    48×64      2  6,144   19 %      60 %   12.0  ± 5.0  ██████████
fc2    Linear    64×10      2  1,280  3.9 %      60 %   2.10 ± 0.25  █▊

Alone: only this layer is on the chip, the others are clean; 3 chips, 450
images.
Intervals are 95 %: Student t over chips for means, Wilson for the yield.
"""


def test_the_report_at_80_columns() -> None:
    lines = [line.rstrip() for line in shown(deployment()).splitlines()]
    assert "\n".join(lines) + "\n" == GOLDEN
    assert max(map(len, lines)) <= 80


def test_a_wide_console_says_the_same() -> None:
    assert joined(shown(deployment(), 120)) == joined(GOLDEN)


def test_no_colours_and_no_escapes_when_piped_but_colours_on_a_terminal() -> None:
    warned = deployment(warnings=("drift changed nothing in fc1",))
    assert "\x1b" not in shown(warned)
    assert "\x1b[33mwarning: drift changed nothing in fc1" in shown(
        warned, force_terminal=True, color_system="standard", legacy_windows=False
    )


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437"])
def test_a_console_without_the_characters_gets_plain_ones(encoding: str) -> None:
    text = shown(deployment(), encoding=encoding)
    assert text.isascii()
    assert "0 to 100 uS" in text
    assert "+- 5.0  ##########" in text
    assert "48x64" in text


def test_names_from_a_file_cannot_command_the_terminal() -> None:
    text = shown(deployment(layers=(report("\x1b[2Jfc[red]1"), report("größe"))), encoding="ascii")
    assert "\x1b" not in text
    assert "\\x1b[2Jfc[red]1" in text
    assert "gr\\xf6\\xdfe" in text


def test_without_labels_the_score_is_called_agreement() -> None:
    scores = tuple(Score(None, s, 0.1) for s in SCORES)
    text = joined(shown(deployment(metric="agreement", scores=scores, clean=Score(None, 1.0, 0.0))))
    assert "gives the same class as the clean model for 82.3 % of images" in text
    assert "this is agreement with the clean model, not accuracy" in text
    assert "14 of 20 chips agree on at least 90.0 %" in text
    assert "right" not in text


def test_an_error_is_shown_as_an_error_and_its_worst_is_the_largest() -> None:
    scores = tuple(Score(None, None, 1 - s) for s in SCORES)
    what = deployment(metric="output_error", scores=scores, clean=Score(None, None, 0.0), threshold=-0.1)
    text = joined(shown(what))
    assert "differ from the clean model's by 17.7 % of their size (95 % interval 11.2 to 24.2 %)" in text
    assert "this is the relative output error, not accuracy" in text
    assert "worst 40.0 % (chip 19) best 7.0 % (chip 13)" in text
    assert "14 of 20 chips have an error of at most 10.0 %" in text
    assert "error alone" in text
    assert "-" not in text.split("quantiles")[1].split("yield")[0]


def test_one_chip_has_no_interval_and_says_so() -> None:
    what = deployment(chips=(3,), scores=(Score(0.823, 0.83, 0.2),), layers=(report("fc1", (0.1,)),))
    text = joined(shown(what))
    assert "On chip 3 the model keeps 82.3 % of images right (one chip: no interval)" in text
    assert "0 of 1 chips reach 90.0 %: yield 0 % (0 to 79 %)" in text
    assert "spread" not in text
    assert "±" not in text
    assert "1 chip, 450 images; one chip: no interval" in text


def test_conductances_from_a_file_are_not_called_simulated() -> None:
    layer = LayerReport(report("fc1").layer, HARDWARE, {"map": 0.2}, None)
    what = deployment(chips=(0,), scores=(Score(0.8, 0.8, 0.2),), layers=(layer,))
    text = joined(shown(what))
    assert "On the chip of the file" in text
    assert "conductances from a file" in text
    assert "LogNormalDrift" not in text
    assert "by map" in text


def test_of_many_layers_the_most_sensitive_are_shown_and_the_rest_counted() -> None:
    layers = tuple(report(f"block{i}.conv", (i / 100, i / 100 + 0.01)) for i in range(64))
    text = shown(deployment(layers=layers), 120)
    rows = [line.split()[0] for line in text.splitlines() if line.startswith("block")]
    assert rows == [f"block{i}.conv" for i in range(63, 51, -1)]
    assert "52 more layers" in text


def test_long_names_are_shortened_in_the_middle_or_wrapped_but_never_cut_off() -> None:
    names = [f"encoder.layers.encoder_layer_{i}.self_attention.out_projection" for i in range(12)]
    text = shown(deployment(layers=tuple(map(report, names))))
    for i in range(12):
        assert re.search(rf"^enco\S*_{i}\.\S*tion ", text, re.MULTILINE), i
    assert max(map(len, text.splitlines())) <= 80


def test_shortened_names_stay_different() -> None:
    assert shorten(["a.long_component_name.7.conv"], 20) == ["a.long_…_name.7.conv"]
    same = ["x" * 20 + "1" + "y" * 20, "x" * 20 + "2" + "y" * 20, "short"]
    assert shorten(same, 12) == same


@pytest.mark.parametrize(
    ("half", "digits"),
    [(None, 1), (0.0, 1), (0.3, 0), (0.12, 0), (0.027, 1), (0.0027, 2), (1e-9, 3)],
)
def test_an_interval_decides_the_digits(half: float | None, digits: int) -> None:
    assert decimals(half) == digits


def test_matrices_of_an_analog_layer_that_are_on_no_array_are_among_the_digital() -> None:
    why = "taken by einsum"
    part = Layer("mixed", "Linear", True, f"on arrays, except w2 ({why})", left=(("w2", why),))
    text = joined(shown(deployment(layers=(report("fc"), LayerReport(part, HARDWARE, {}, None)))))
    assert f"mixed.w2: {why}" in text


def test_no_minus_zero() -> None:
    assert fixed(-0.0001, 1) == "0.0"
    assert fixed(-0.0012, 1) == "-0.1"


def test_an_interval_beyond_100_per_cent_is_explained() -> None:
    scores = (Score(0.99, None, None), Score(0.5, None, None), Score(0.99, None, None))
    found = deployment(chips=(0, 1, 2), scores=scores)
    assert found.main.ci95[1] > 1
    assert "the interval is cut at 0 and 100 %" in joined(shown(found))
    assert "to 100 %)" in joined(shown(found))
    assert ", 1]" in repr(found)
    assert found.as_dict()["drifted"]["accuracy"]["ci95"] == list(found.main.ci95)


def test_equal_chips_have_no_best_and_worst() -> None:
    scores = tuple(Score(0.9, 0.9, 0.1) for _ in range(20))
    text = shown(deployment(scores=scores))
    assert "none: all 20 chips score the same" in text
    assert "worst" not in text


def terminal(**options: Any) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=80, **options)


def test_progress_is_silent_when_piped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consoles, "PATIENCE", 0.0)
    console = Console(file=io.StringIO(), force_terminal=False)
    with progress(console) as step:
        time.sleep(0.05)
        step(1, 2, "chip 0")
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


def test_progress_is_silent_for_short_work_and_speaks_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    console = terminal()
    with progress(console) as step:
        step(1, 2, "chip 0")
    assert console.file.getvalue().strip() == ""  # type: ignore[attr-defined]
    monkeypatch.setattr(consoles, "PATIENCE", 0.0)
    with progress(console) as step:
        step(1, 2, "chip 0, [fc1] alone\nabout 3 h more (--sensitivity-chips 0 leaves it out)")
        time.sleep(0.3)
    assert "chip 0, [fc1] alone" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "about 3 h more (--sensitivity-chips 0 leaves it out)" in console.file.getvalue()  # type: ignore[attr-defined]


EVIL = "a\x1b[31m\x07[red]b[/]:smile:\u202e\x9b2J\u2028c"


def test_nothing_that_is_printed_obeys_a_name(monkeypatch):
    """Escape sequences, marks that turn the direction of writing, Rich's markup: whichever way they are printed."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    console = consoles.terminal()
    console.file = io.StringIO()
    table = Table(EVIL)
    table.add_column(Text(EVIL, "bold"))
    table.add_row(EVIL, Text(EVIL, "cyan"))
    console.print(table)
    console.print(EVIL)
    console.print(Text(EVIL), EVIL, style="bold")
    say(console, EVIL, "yellow")
    written = console.file.getvalue()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", written)  # Rich's own
    assert "\x1b[1m" in written
    assert "\x1b[31m" not in written
    assert not {c for c in plain if not c.isprintable()} - {"\n"}
    assert plain.count("[red]b[/]:smile:") == 8


def test_a_progress_bar_obeys_no_name(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(consoles, "PATIENCE", 0.0)
    console = consoles.terminal(stderr=True)
    console.file = io.StringIO()
    with progress(console) as step:
        time.sleep(0.05)
        step(1, 2, "\x1b]0;title\x07[red]")
        time.sleep(0.3)
    assert "\x1b]0;" not in console.file.getvalue()
    assert "[red]" in console.file.getvalue()
