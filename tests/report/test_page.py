import base64
import hashlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pytest
from helpers.made_sweeps import sweep

from crossbar_sim import report
from crossbar_sim.errors import InputError
from crossbar_sim.report import page_text, write_page
from crossbar_sim.report.charts import MOST_POINTS
from crossbar_sim.report.formatting import Names, Scale
from crossbar_sim.report.headline import answer, listed_sigmas
from crossbar_sim.report.ranking import ahead
from crossbar_sim.report.rows import default_threshold, thresholds
from crossbar_sim.report.tables import MOST_TRIALS
from crossbar_sim.robustness.point import Point
from crossbar_sim.robustness.sweep import Sweep
from crossbar_sim.store.records import Task

HOSTILE = (
    '<img src=x onerror="document.title=1">',
    "</script><script>window.hacked=1</script>",
    "<!--<script>",
    "a\x1b[1m\u202e\x00b",
    "\ud800",
    "&lt;b&gt; $x$ {{}} `'\"",
    "",
    "x" * 5000,
)


class Page(HTMLParser):
    """What a browser makes of a page: elements, attributes, texts, scripts."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.scripts: dict[str, str] = {}
        self.feed(source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        self.texts.setdefault(inside, []).append(data)
        if inside == "script":
            attributes = self.elements[-1][1]
            self.scripts[attributes.get("id") or f"code {len(self.scripts)}"] = data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    def data(self, name: str) -> Any:
        return json.loads(self.scripts[name])

    @property
    def words(self) -> str:
        return " ".join(
            " ".join(part) for tag, part in self.texts.items() if tag not in ("script", "style")
        ).replace("\xa0", " ")


def expanded(spec: dict[str, Any]) -> dict[str, Any]:
    """A chart's specification as the page's script makes it, tables as Vega-Lite knows them."""
    rows = {
        name: [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
        for name, table in spec["datasets"].items()
    }
    return spec | {"datasets": rows}


def test_the_page_is_whole_and_every_chart_is_a_valid_specification() -> None:
    page = Page(page_text(sweep()))
    charts = page.data("charts")
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert max(Counter(ids).values()) == 1
    wanted = {"chart-curves", "chart-differences", "chart-yield", "chart-sensitivity"}
    assert wanted <= set(charts)
    assert len(charts) == 4 + 2 * 3
    for name, spec in charts.items():
        assert name in ids
        assert "config" not in spec
        assert spec["width"] == "container"
        assert spec["description"]
        used = {part["data"]["name"] for part in [spec, *spec["layer"]] if "data" in part}
        assert used == set(spec["datasets"])
        alt.Chart.from_dict(expanded(spec))  # validated against the schema
    assert page.count("table") == 4
    for heading in ("Robustness", "Yield", "All numbers", "What was measured"):
        assert heading in page.texts["h2"]


def test_the_same_sweep_gives_the_same_bytes_whatever_altair_is_set_to(tmp_path: Path) -> None:
    write_page(sweep(), tmp_path / "a.html")
    alt.Chart(alt.InlineData(values=[{"a": 1}])).mark_point().add_params(alt.selection_point()).to_dict()
    before = alt.theme.active
    alt.theme.enable("dark")
    try:
        with alt.data_transformers.enable("default", consolidate_datasets=True):
            write_page(sweep(), tmp_path / "b.html")
    finally:
        alt.theme.enable(before)
    first, second = ((tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert first == second
    assert os.listdir(tmp_path) in (["a.html", "b.html"], ["b.html", "a.html"])


def test_what_a_label_or_file_name_says_is_text(tmp_path: Path) -> None:
    made = sweep(HOSTILE, about=None, file="</dd><script>1</script>", command="\x1b]0;owned\x07")
    write_page(made, tmp_path / "page.html", title=HOSTILE[1])  # lone surrogates can be written
    source = (tmp_path / "page.html").read_text(encoding="utf-8")
    page, plain = Page(source), Page(page_text(sweep(tuple("abcdefgh"))))
    for tag in ("script", "img", "b", "iframe"):
        assert page.count(tag) == plain.count(tag)
    assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]
    assert HOSTILE[0] in page.words
    assert r"a\x1b[1m\u202e\x00b" in page.words
    assert "\x1b" not in source
    assert "\u202e" not in source
    assert len(page.words) < 200_000
    assert HOSTILE[1] in page.data("downloads")["curves.csv"]  # as it is: a data file
    names = page.data("charts")["chart-curves"]["layer"][1]["encoding"]["color"]["scale"]["domain"]
    assert len(set(names)) == len(HOSTILE)
    assert all(0 < len(name) < 80 for name in names)


def test_nothing_on_the_page_comes_from_elsewhere() -> None:
    source = page_text(sweep())
    page = Page(source)
    for tag, attributes in page.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form")
        assert not {"src", "href", "action", "background", "poster", "srcset"} & set(attributes), (
            tag,
            attributes,
        )
    style = "".join(page.texts["style"])
    assert "url(" not in style
    assert "@import" not in style
    library = max(page.scripts.values(), key=len)
    rest = source.replace(library, "")
    assert set(re.findall(r"https?://[^\"'\s)]*", rest)) <= {
        f"https://vega.github.io/schema/vega-lite/{alt.SCHEMA_VERSION}.json"
    }


def test_the_policy_lets_the_pages_own_scripts_run_and_nothing_else() -> None:
    page = Page(page_text(sweep()))
    (policy,) = (
        a["content"] or "" for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(part.split(" ", 1) for part in policy.split("; "))
    code = [text for name, text in page.scripts.items() if name.startswith("code")]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in code]
    assert len(code) == 2
    assert sorted(rules["script-src"].split()) == sorted(f"'sha256-{digest}'" for digest in digests)
    assert rules["default-src"] == "'none'"
    assert "unsafe-eval" not in policy


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, ["bayesft is the most robust: its mean accuracy over sigma 0 to 1.2 is", "more than that of erm."]),
        ({"labels": ("erm",)}, ["erm has a mean accuracy of", "against 97.0 % clean"]),
        ({"chips": 1}, ["with one chip, the significance", "(one chip: no interval)"]),
        ({"sigmas": (0.6,)}, ["at sigma 0.6 is"]),
        ({"metric": "output_error"}, ["mean relative output error", "points", "less than that of erm."]),
        ({"labels": ("a", "b", "c")}, ["the next of 2 others", "at 95 % for all 2 together"]),
        ({"law": "normal_shift"}, ["sigma of the drift (S)"]),
        ({"law": "gamma"}, ["sigma of the drift factor"]),
    ],
)  # fmt: skip
def test_the_first_sentences_give_the_answer(arguments: dict[str, Any], said: list[str]) -> None:
    words = Page(page_text(sweep(**arguments))).words
    for part in said:
        assert part in words


def test_models_that_differ_by_chance_are_not_ranked() -> None:
    made = sweep(("a",))
    same = Sweep(
        {"a": made.tasks["a"], "b": made.tasks["a"]},
        {"a": made.curve("a"), "b": made.curve("a")},
        {"a": {}, "b": {}},
    )
    words = Page(page_text(same)).words
    assert "a and b do not differ significantly" in words
    lead = ahead(same, "a", "b")
    assert lead is not None
    assert lead.estimate == 0


def at_one_sigma(labels: tuple[str, ...]) -> Sweep:
    """The first model differs from the others at sigma 0.3 only, and chips scatter at the last sigma."""
    made, curves = sweep(labels[:1], known=False), {}
    rng = np.random.default_rng(5)
    for place, label in enumerate(labels):
        found = []
        for trial in (t for p in made.curve(labels[0]) for t in p.trials):
            shift = 0.0
            if place and trial.sigma == 0.3:
                shift = -0.01 - 0.002 * rng.random()
            if place and trial.sigma == 1.2:
                shift = 0.05 * (-1) ** trial.chip
            found.append(replace(trial, value=trial.value + shift))
        curves[label] = Point.of_trials(label, made.tasks[labels[0]], found)
    return Sweep(dict.fromkeys(labels, made.tasks[labels[0]]), curves, {label: {} for label in labels})


def test_sigmas_at_which_models_differ_are_named_where_their_means_do_not() -> None:
    two, three = at_one_sigma(("a", "b")), at_one_sigma(("a", "b", "c"))
    (found,) = [s for s in answer(two, None) if "do not differ significantly" in s]
    assert "do not differ significantly by their mean over the sigmas" in found
    assert re.search(r"At single sigmas a differs from b at sigma 0\.3 \(p (=|<) 0\.0\d+\)", found)
    assert found.split(" At single")[1] in Page(page_text(two)).words
    assert re.search(r"differs from b at sigma 0\.3 .*; from c at sigma 0\.3", answer(three, None)[0])
    same = Sweep(two.tasks, dict.fromkeys("ab", two.curve("a")), {"a": {}, "b": {}})
    assert "At single sigmas" not in answer(same, None)[0]  # the control


def test_many_sigmas_are_listed_in_short() -> None:
    assert listed_sigmas([0.3]) == "sigma 0.3"
    assert listed_sigmas([0.3, 0.6, 1e-6]) == "sigma 0.3, 0.6 and 1e-06"
    assert (
        listed_sigmas([i / 10 for i in range(1, 9)]) == "sigma 0.1, 0.2, 0.3, 0.4, 0.5 and 3 more up to 0.8"
    )


def test_the_crossing_is_told_in_the_shown_scale() -> None:
    words = Page(page_text(sweep(metric="output_error"), threshold=0.2)).words
    assert re.search(
        r"The mean of bayesft rises above 20 % at sigma 0\.\d+ \(0\.\d+ to 0\.\d+\); that of erm at", words
    )
    assert "falls below" not in words
    words = Page(page_text(sweep())).words
    assert "falls below 92 % at sigma" in words


def test_tables_hold_the_numbers_of_the_summary() -> None:
    made = sweep()
    words = Page(page_text(made, threshold=0.5)).words
    rows = page_rows(made)
    for row in made.summary(0.5):
        assert f"{100 * row['mean']:.1f}"[:3] in words
    csv = rows["curves.csv"]
    for found, row in zip(csv, made.summary(0.92), strict=True):
        low, high = row["ci95"]
        assert [float(found[k]) for k in ("sigma", "mean", "low95", "high95", "yield")] == [
            row["sigma"], row["mean"], low, high, row["yield"]["value"],
        ]  # fmt: skip
    assert len(rows["chips.csv"]) == 2 * 5 * 8
    first = {found["sigma"]: found for found in rows["differences.csv"]}
    for sigma, pair in made.paired("bayesft", "erm"):
        assert float(first[str(sigma)]["difference"]) == pair.difference


def page_rows(made: Sweep) -> dict[str, list[dict[str, str]]]:
    import csv

    files = Page(page_text(made)).data("downloads")
    return {name: list(csv.DictReader(text.splitlines())) for name, text in files.items()}


def test_a_large_sweep_is_cut_to_what_a_page_can_carry_and_says_so() -> None:
    made = sweep([f"model {i}" for i in range(8)], [0.05 * i for i in range(61)], chips=60, known=False)
    source = page_text(made)
    page = Page(source)
    cloud = page.data("charts")["chart-curves"]["datasets"]
    assert max(len(table["rows"]) for table in cloud.values()) <= MOST_POINTS
    assert "The first 12 chips of each point can be shown here." in page.words
    assert page.data("downloads")["chips.csv"].count("\n") <= MOST_TRIALS + 1
    assert "chips.csv holds the first 40 chips of each point" in page.words
    assert len(source) < 5e6


@pytest.mark.parametrize("chips", [1, 2])
@pytest.mark.parametrize("sigmas", [(0.6,), (0.3, 0.6)])
@pytest.mark.parametrize("labels", [("a",), ("a", "b"), tuple(f"m{i}" for i in range(12))])
def test_every_shape_of_sweep_has_a_page(
    labels: tuple[str, ...], sigmas: tuple[float, ...], chips: int
) -> None:
    page = Page(page_text(sweep(labels, sigmas, chips, known=False)))
    charts = page.data("charts")
    assert ("chart-differences" in charts) == (len(labels) > 1)
    assert ("chart-yield" in charts) == (chips > 1)
    for spec in charts.values():
        alt.Chart.from_dict(expanded(spec))
    if chips == 1:
        assert "A single chip gives no interval" in page.words
        assert "Student t interval" not in page.words


def test_errors_that_grow_without_bound_have_a_logarithmic_axis() -> None:
    page = Page(page_text(sweep(("a",), (0.0, 0.01, 0.1, 1.0, 40.0), metric="output_error")))
    band = page.data("charts")["chart-curves"]["layer"][0]
    assert band["encoding"]["y"]["scale"]["type"] == "log"
    assert "The axis is logarithmic" in page.words


def test_models_that_were_not_measured_alike_are_named_as_such() -> None:
    a, b = sweep(("a",)), sweep(("b",), seed=3)
    mixed = Sweep(a.tasks | b.tasks, a.curves | b.curves, a.details | b.details)  # type: ignore[operator]
    page = Page(page_text(mixed))
    assert "What differs between them: seed." in page.words
    assert "differs between the models" in page.words


def test_models_without_a_common_chip_are_not_compared() -> None:
    a, b = sweep(("a",)), sweep(("b",))
    others = tuple(
        replace(p, trials=tuple(replace(t, chip=t.chip + 100) for t in p.trials)) for p in b.curve("b")
    )
    apart = Sweep(a.tasks | b.tasks, a.curves | {"b": others}, {"a": {}, "b": {}})  # type: ignore[operator]
    page = Page(page_text(apart))
    assert "chart-differences" not in page.data("charts")
    assert "no chip in common" in page.words


def test_a_model_without_a_trial_yet_is_left_out() -> None:
    made = sweep()
    begun = Sweep(made.tasks, {**made.curves, "erm": ()}, made.details)
    assert "Robustness of bayesft" in Page(page_text(begun)).words
    with pytest.raises(InputError, match="no trial"):
        page_text(Sweep(made.tasks, dict.fromkeys(made.curves, ()), made.details))


def test_models_can_be_chosen_and_ordered() -> None:
    made = sweep(("a", "b", "c"))
    assert Page(page_text(made, models=["c", "a"])).data("charts")["chart-differences"]
    assert "Robustness of c and a" in Page(page_text(made, models=["c", "a"])).words
    with pytest.raises(InputError, match="'d'"):
        page_text(made, models=["d"])
    with pytest.raises(InputError, match="twice"):
        page_text(made, models=["a", "a"])


@pytest.mark.parametrize(
    ("threshold", "message"), [(-0.1, "such as 0.9"), (float("nan"), "such as 0.9"), (90, "0 .. 1")]
)
def test_an_impossible_threshold_is_refused(threshold: float, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        page_text(sweep(), threshold=threshold)


@pytest.mark.parametrize("name", ["sensitivity", "conductances"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda detail: detail.pop("layers"),
        lambda detail: detail["layers"].append(3),
        lambda detail: detail.update(sigma="x"),
        lambda detail: detail["layers"][0].update(drops=["x"], drifted=[1]),
    ],
)
def test_damaged_details_are_one_sentence(name: str, spoil: Callable[[Any], object]) -> None:
    made = sweep(("a",))
    details = json.loads(json.dumps(made.details["a"]))
    spoil(details[name])
    with pytest.raises(InputError, match=f"the {name} of a cannot be read") as caught:
        page_text(Sweep(made.tasks, made.curves, {"a": details}))
    assert "\n" not in str(caught.value)


def test_an_identity_of_another_form_does_not_stop_the_page() -> None:
    made = sweep(("a",))
    odd = {
        "metric": "accuracy",
        "images": {"count": 1000, "drawn": False},
        "hardware": ["?"],
        "data": 3,
        "seed": {"a": 1},
    }
    tasks = {"a": Task("a", odd, 0.9, {"command": ["x", 1], "deep": {"y": None}})}
    assert "unknown" in Page(page_text(Sweep(tasks, made.curves, {"a": {}}))).words


@pytest.mark.parametrize("missing", ["altair", "vl_convert"])
def test_without_its_libraries_the_page_says_what_to_install(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match="pip install") as caught:
        report.__getattr__("write_page")
    assert "\n" not in str(caught.value)


def test_a_page_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(InputError, match="No space left"):
        write_page(sweep(), path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["page.html"]


def test_the_default_threshold_is_round_and_below_every_clean_score() -> None:
    made = sweep()
    assert default_threshold(made) == 0.92
    tasks = {"erm": replace(made.tasks["erm"], clean=0.03), "bayesft": made.tasks["bayesft"]}
    failed = default_threshold(Sweep(tasks, made.curves, {}))  # a training that failed does not count
    assert failed == default_threshold(Sweep({"bayesft": tasks["bayesft"]}, {}, {}))
    assert failed > 0.9
    all_failed = {label: replace(task, clean=0.03) for label, task in tasks.items()}
    assert default_threshold(Sweep(all_failed, made.curves, {})) == 0
    assert default_threshold(sweep(metric="output_error")) is None


@pytest.mark.parametrize("scores", [[0.2], [0.9123, 0.9124], [0.0, 1.0], [1.0, 1.0]])
def test_thresholds_are_few_and_span_the_scores(scores: list[float]) -> None:
    found = thresholds(scores, Scale.of("accuracy"), 20)
    assert 2 <= len(found) <= 23
    assert found == sorted(found)
    assert found[0] <= min(scores)
    assert found[-1] >= max(scores)


def test_names_are_apart_whatever_is_cut() -> None:
    labels = ["x" * 300 + "a" + "y" * 300, "x" * 300 + "b" + "y" * 300, "\x1b", r"\x1b", " ", ""]
    names = Names.of(labels)
    for found in (names.whole, names.short):
        assert len(set(found.values())) == len(labels)
        assert all(name.strip() and len(name) < 450 for name in found.values())
