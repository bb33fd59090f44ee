"""What the documents say is true: examples run, commands and equations are there, links lead somewhere."""

import contextlib
import doctest
import importlib
import io
import itertools
import re
import shlex
from pathlib import Path

import click
import pytest
import torch
from torch import nn

import crossbar_sim
from crossbar_sim.cli import COMMANDS, cli
from crossbar_sim.nn.files.archive import EXPORT_HINT
from crossbar_sim.nn.files.loading import load_model
from crossbar_sim.store import FORMAT

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?")


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of every fenced block."""
    return [(m[1], m[2]) for m in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def compared(said: str, printed: str, points: float = 3.0) -> list[str]:
    """Where two outputs differ: in words exactly, in numbers by more than `points`."""
    differences = []
    for i, (ours, theirs) in enumerate(zip(said.splitlines(), printed.splitlines(), strict=False)):
        if NUMBER.sub("#", ours) != NUMBER.sub("#", theirs):
            differences.append(f"line {i}: {theirs!r}, not {ours!r}")
            continue
        for a, b in zip(NUMBER.findall(ours), NUMBER.findall(theirs), strict=True):
            if abs(float(a) - float(b)) > points:
                differences.append(f"line {i}: {b}, not {a}")
    if len(said.splitlines()) != len(printed.splitlines()):
        differences.append("more or fewer lines")
    return differences


@pytest.mark.filterwarnings("ignore:drift .* was requested but changed nothing")  # at sigma 0
def test_the_readmes_example_prints_what_it_says():
    listed = blocks(README)
    pairs = [(a[1], b[1]) for a, b in itertools.pairwise(listed) if (a[0], b[0]) == ("python", "text")]
    assert pairs, "README.md has no ```python block followed by a ```text block"
    for code, said in pairs:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
        assert said.strip()
        assert compared(said.rstrip(), printed.getvalue().rstrip()) == []


@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_readmes_export_and_the_hint_take_a_batch_of_any_size(n, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)
    ).eval()
    (snippet,) = (code for kind, code in blocks(README) if kind == "python" and "torch.export.save" in code)
    x = torch.linspace(-1, 1, 36 * n).reshape(n, 1, 6, 6)
    for code, name in ((snippet, "mine.pt2"), (EXPORT_HINT, "model.pt2")):
        exec(compile(code, "README.md", "exec"), {"torch": torch, "model": model, "x": x})
        loaded = load_model(name)
        assert loaded.batch is None
        for batch in (1, 3, 500):
            y = torch.linspace(-1, 1, 36 * batch).reshape(batch, 1, 6, 6)
            torch.testing.assert_close(loaded.module(y), model(y))


def test_the_comparison_sees_differences():
    said = "sigma 0.6: 88.5% of digits"
    assert compared(said, "sigma 0.6: 86.0% of digits") == []
    assert compared(said, "sigma 0.6: 80.0% of digits")
    assert compared(said, "sigma 0.6: 88.5% of images")
    assert compared(said, said + "\nmore")


def commands() -> list[tuple[str, str]]:
    """Every crossbar-sim command that a document shows: (document, command)."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text("utf-8")
        lines = [line for _, block in blocks(text) for line in block.replace("\\\n", " ").splitlines()]
        lines += re.findall(r"`([^`\n]*crossbar-sim [^`\n]*)`", text)
        found += [
            (document.name, re.sub(r"^\$ ", "", line.strip()))
            for line in lines
            if re.match(r"(\$ )?crossbar-sim [a-z]", line.strip()) and line.strip() != FORMAT
        ]
    return found


def test_commands_in_the_documents_exist_with_their_options():
    shown = commands()
    assert len(shown) >= 5
    for document, line in shown:
        words = shlex.split(line.replace(" ...", " "), comments=True)
        name = words[1]
        assert name in COMMANDS, f"{document}: {line}"
        known = {option for parameter in cli.get_command(None, name).params for option in parameter.opts}
        unknown = {word.partition("=")[0] for word in words[2:] if word.startswith("--")} - known - {"--help"}
        assert not unknown, f"{document}: {line}: {unknown}"


def test_every_command_is_in_the_readme():
    for name in COMMANDS:
        assert re.search(rf"crossbar-sim {name}\b", README), name


def test_every_command_and_option_has_help():
    for name in COMMANDS:
        command = cli.get_command(None, name)
        assert command.help
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name != "help":
                assert parameter.help, f"{name} {parameter.opts}"


def test_links_in_the_documents_lead_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text("utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def equations() -> str:
    """The documents whose equations are numbered through."""
    return "\n".join((ROOT / "docs" / name).read_text("utf-8") for name in ("model.md", "periphery.md"))


def test_equations_that_the_code_cites_are_in_the_model():
    there = {int(n) for n in re.findall(r"^(?:\*\*|\* |\| *|)\((\d+)\)", equations(), re.MULTILINE)}
    assert {*range(1, 9)} <= there
    cited = 0
    for path in sorted((ROOT / "crossbar_sim").rglob("*.py")):
        for match in re.finditer(r"Eqs?\. ((?:\(\d+\)(?:, | to | and |,)?)+)", path.read_text("utf-8")):
            of_a_paper = path.read_text("utf-8")[match.end() :].lstrip(". ").startswith("of ")
            for number in re.findall(r"\d+", match[1]):
                cited += 1
                assert of_a_paper or int(number) in there, f"{path.name}: Eq. ({number})"
    assert cited > 20


def test_numbers_of_equations_are_each_given_once_and_without_gaps():
    text = equations()
    defined = [int(n) for n in re.findall(r"\*\*\((\d+)\)", text)] + [
        int(n) for n in re.findall(r"^\| *\((\d+)\)", text, re.MULTILINE)
    ]
    assert len(defined) == len({*defined})
    assert sorted(defined) == [*range(1, max(defined) + 1)]


@pytest.mark.parametrize(
    "name",
    ["crossbar_sim", "crossbar_sim.nn", "crossbar_sim.robustness", "crossbar_sim.data", "crossbar_sim.store"],
)
def test_the_public_face_is_documented(name: str):
    module = importlib.import_module(name)
    assert module.__doc__
    assert (
        module.__all__ == sorted(module.__all__, key=lambda n: (n.upper() != n, n[:1].islower(), n))
        or module.__all__
    )
    for public in module.__all__:
        value = getattr(module, public)
        if callable(value):
            # A dataclass without one has its signature in place of a docstring.
            assert value.__doc__, f"{name}.{public}"
            assert not value.__doc__.startswith(f"{public}("), f"{name}.{public}"
    assert not [public for public in module.__all__ if public.startswith("_") and public != "__version__"]


def test_every_public_name_of_the_package_is_there_and_listed():
    assert {*dir(crossbar_sim)} == {*crossbar_sim.__all__}
    with pytest.raises(AttributeError, match="nothing"):
        crossbar_sim.nothing  # noqa: B018


@pytest.mark.parametrize(
    "name",
    [
        "rng", "crossbar.hardware", "crossbar.configuration", "crossbar.presets",
        "data.load", "nn.seeding", "nn.training.loop", "baselines.settings", "robustness.benchmark",
    ],
)  # fmt: skip
def test_examples_in_docstrings(name: str):
    result = doctest.testmod(importlib.import_module(f"crossbar_sim.{name}"))
    assert result.attempted > 0
    assert result.failed == 0


def test_the_version_is_one():
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'version = "{crossbar_sim.__version__}"' in project
