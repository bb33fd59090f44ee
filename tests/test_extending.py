"""Drift laws and programming noise that are not in the package."""

import json
import re
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from crossbar_sim import (
    ALL_DRIFTS,
    DriftModel,
    Hardware,
    InputError,
    Key,
    LogNormalDrift,
    ProgrammingModel,
    ProgrammingNoise,
    register_drift,
    register_programming,
)
from crossbar_sim.crossbar.configuration import (
    from_text,
    is_deterministic,
    sources,
    to_dict,
    to_json,
    to_toml,
)
from crossbar_sim.crossbar.devices import PROGRAMMING
from crossbar_sim.crossbar.drift import DRIFTS
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.experiments.schema import load_experiment
from crossbar_sim.nn.tensor_cells import laws, planes
from crossbar_sim.robustness import deploy

DOCS = Path(__file__).parents[1] / "docs" / "extending.md"


@dataclass(frozen=True)
class Scaling(DriftModel):
    """g' = factor g: not registered."""

    factor: float

    def cells(self, g, out, stream, start):
        out[:] = np.float32(self.factor) * g


@dataclass(frozen=True)
class Squared(LogNormalDrift):
    """A subclass of a law of the package: neither its fast kernel nor its form in torch is used."""

    kind: ClassVar[str] = "squared"

    def cells(self, g, out, stream, start):
        super().cells(np.ones_like(g), out, stream, start)
        out *= out * g


@dataclass(frozen=True)
class Shifted(ProgrammingModel):
    by: float

    def cells(self, g, z, g_max, out):
        out[:] = g + np.float32(self.by * g_max) * (1 + 0 * z)


W = np.random.default_rng(5).standard_normal((37, 29)).astype(np.float32)
LAWS = (Scaling(0.5), Squared(0.3))


@pytest.fixture
def my_laws(tmp_path, monkeypatch):
    """The file of docs/extending.md in the current directory, not imported yet."""
    code, *_ = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    (tmp_path / "my_laws.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    sys.modules.pop("my_laws", None)
    DRIFTS.pop("stretched", None)
    PROGRAMMING.pop("skewed", None)


def test_a_design_uses_the_law_and_names_it_by_its_import_path():
    array = Hardware(drift=Scaling(0.5), programming=Shifted(0.25)).program(W, Key(0))
    np.testing.assert_allclose(array.drifted, 0.5 * (array.target + 0.25 * 1e-4), rtol=1e-6)
    design = Hardware(drift=Scaling(0.5), programming=Shifted(0.25))
    assert to_dict(design)["drift"] == {"kind": "test_extending:Scaling", "factor": 0.5}
    assert to_dict(design)["programming"] == {"kind": "test_extending:Shifted", "by": 0.25}
    assert Hardware.from_json(to_json(design)) == design
    assert Hardware.from_toml(to_toml(design)) == design
    assert from_text("drift", "test_extending:Scaling,factor=0.5") == Scaling(0.5)
    assert Scaling(0.5).kind == "test_extending:Scaling"  # in messages


def test_a_registered_law_has_a_short_name_and_keeps_its_path_in_results(monkeypatch):
    monkeypatch.delitem(DRIFTS, "squared", raising=False)
    assert register_drift(Squared) is Squared
    assert register_drift(Squared) is Squared
    assert from_text("drift", "squared:sigma=0.3") == Squared(0.3)
    assert Hardware.from_dict({"drift": {"kind": "squared", "sigma": 0.3}}).drift == Squared(0.3)
    assert to_dict(Hardware(drift=Squared(0.3)))["drift"]["kind"] == "test_extending:Squared"
    assert Squared not in ALL_DRIFTS
    monkeypatch.delitem(DRIFTS, "squared")


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
@pytest.mark.parametrize("drift_per", ["cell", "weight"])
def test_torch_falls_back_to_the_cells_of_the_law(law, drift_per):
    hardware = Hardware(drift=law, drift_per=drift_per)
    found = planes.effective_weight(hardware, torch.from_numpy(W), Key(2), 3).numpy()
    core = hardware.effective_weight(W, Key(2), 3)
    np.testing.assert_allclose(found, core, rtol=1e-5, atol=3e-6)
    plain = Hardware(drift=LogNormalDrift(0.3), drift_per=drift_per).effective_weight(W, Key(2), 3)
    assert np.abs(core - plain).max() > 0.1
    g = np.full(70_000, 1e-4, np.float32)  # more than a chunk
    stream = Stream.of(Key(1).fold("drift"), 4)
    assert np.array_equal(laws.drift(law, torch.from_numpy(g), stream).numpy(), law.apply(g, Key(1), 4))


def test_torch_falls_back_to_the_cells_of_programming_noise():
    hardware = Hardware(programming=Shifted(0.25), drift=LogNormalDrift(0.3))
    found = planes.effective_weight(hardware, torch.from_numpy(W), Key(2), 3).numpy()
    np.testing.assert_allclose(found, hardware.effective_weight(W, Key(2), 3), rtol=1e-5, atol=3e-6)


def test_chips_of_a_law_that_says_nothing_are_taken_as_random():
    assert not is_deterministic(Hardware(drift=Scaling(0.0)))
    assert is_deterministic(Hardware(drift=LogNormalDrift(0.0)))


def test_the_law_of_the_docs_on_the_command_line_and_in_workers(command, files, network, digits, my_laws):
    law = "my_laws:StretchedDrift,sigma=0.3,time=3600"
    arguments = (
        "sweep", files.checkpoint, "--drift", law, "--programming", "my_laws:SkewedNoise,sigma=0.02",
        "--sigma", "0,0.3", "--chips", 3, "--json", "-",
    )  # fmt: skip
    here = command(*arguments)
    assert here.code == 0, here.err
    import my_laws as module

    design = Hardware.preset(
        "bayesft", drift=module.StretchedDrift(0.3, 3600.0), programming=module.SkewedNoise(0.02)
    )
    alone = deploy(network, digits.test.x, digits.test.y, design, chips=3, sensitivity_chips=0).main
    assert here.report["models"][0]["points"][1]["mean"] == alone.mean
    assert json.dumps(here.report).count('"my_laws:StretchedDrift"') >= 1
    there = command(*arguments, "--workers", 2)
    assert there.code == 0, there.err
    assert there.report["models"] == here.report["models"]


def test_results_know_the_source_of_the_law(my_laws):
    def source() -> dict[str, str]:
        sys.modules.pop("my_laws", None)
        return sources(Hardware(drift=from_text("drift", "my_laws:StretchedDrift,sigma=0.3")))[
            "hardware_source"
        ]

    first, again = source(), source()
    assert first == again
    assert [*first] == ["my_laws:StretchedDrift"]
    path = my_laws / "my_laws.py"
    path.write_text(path.read_text().replace("self.sigma * z -", "2 * self.sigma * z -"))
    assert source() != first
    assert sources(Hardware.preset("bayesft")) == {}
    assert sources(Hardware(drift=Squared(0.3), programming=Shifted(0.1))).keys() == {"hardware_source"}


FILE = """
    [drift]
    kind = "my_laws:StretchedDrift"
    sigma = 0.3
"""
EXPERIMENT = """
    data = "digits"
    sigmas = [0.3]
    chips = 2
    [models]
    a = "a.pt"
    [hardware]
    drift = { kind = "my_laws:StretchedDrift", sigma = 0.3 }
"""


def test_a_file_runs_code_only_where_it_is_trusted(command, files, my_laws, monkeypatch):
    monkeypatch.syspath_prepend(my_laws)
    (my_laws / "h.toml").write_text(textwrap.dedent(FILE))
    (my_laws / "e.toml").write_text(textwrap.dedent(EXPERIMENT))
    for done in (
        command("deploy", files.checkpoint, "--hardware", "h.toml"),
        command("run", "e.toml", "-o", "x"),
    ):
        assert done.code == 2
        assert "names code" in done.err
        assert "--trust-code" in done.err
        assert len(done.err.strip().splitlines()) == 1
    with pytest.raises(InputError, match="names code"):
        Hardware.load("h.toml")
    assert "my_laws" not in sys.modules
    assert load_experiment(my_laws / "e.toml", trust_code=True).hardware.drift.sigma == 0.3
    assert Hardware.load("h.toml").drift.sigma == 0.3  # imported by now


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no_such_module:Law,sigma=1", "no_such_module cannot be imported"),
        ("this:Law,sigma=1", "module of Python itself"),
        ("test_extending:W", "frozen dataclass that extends crossbar_sim.DriftModel"),
        ("test_extending:Shifted,by=1", "frozen dataclass that extends crossbar_sim.DriftModel"),
        ("test_extending:NoLaw", "frozen dataclass"),
        ("test_extending:Scaling,faktor=1", "did you mean 'drift.factor'"),
        ("test_extending:Scaling", "drift.factor is missing"),
        ("gama:sigma=0.3", "did you mean 'gamma'"),
        ("os:system,x=1", "frozen dataclass"),
    ],
)
def test_what_cannot_be_a_law_is_refused_in_one_line(text, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        from_text("drift", text)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_registered_is_refused():
    @dataclass
    class Thawed(DriftModel):
        kind: ClassVar[str] = "thawed"

        def cells(self, g, out, stream, start):
            out[:] = g

    @dataclass(frozen=True)
    class Second(DriftModel):
        kind: ClassVar[str] = "lognormal"

        def cells(self, g, out, stream, start):
            out[:] = g

    for cls, message in (
        (Thawed, "frozen dataclass"),
        (Second, "is the kind of LogNormalDrift"),
        (Scaling, "small letters"),
        (ProgrammingNoise, "DriftModel"),
        (3, "3 cannot be registered"),
    ):
        with pytest.raises(InputError, match=message):
            register_drift(cls)
    with pytest.raises(InputError, match="ProgrammingModel"):
        register_programming(Scaling)
    with pytest.raises(InputError, match="Thawed must be a frozen dataclass"):
        Hardware(drift=Thawed())
    with pytest.raises(InputError, match="inside a function"):
        to_dict(Hardware(drift=Second()))
