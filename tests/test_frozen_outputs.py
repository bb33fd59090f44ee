"""Outputs as an earlier commit wrote them: a change of the code's structure must change no number and no format.

`python tests/test_frozen_outputs.py` writes them again; the changelog then lists the change under Results.
Text is compared as it is, numbers to a relative 1e-5: matrix products round differently on other processors.
"""

import csv
import hashlib
import io
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from crossbar_sim.cli import run

FROZEN = Path(__file__).parent / "data" / "frozen"
CHECKPOINTS = [Path(__file__).parent / "data" / "frozen_models" / name for name in ("wide.pt", "narrow.pt")]
"""Two networks that are kept as files: the hash of a model's file is part of what names a trial."""

LEFT_OUT = {"version", "sha256", "model_sha256", "seconds"}
"""Keys whose values depend on the version of this package, on how torch writes archives, and on the clock."""

DESIGNS: dict[str, list[str]] = {
    "default": ["--sigma", "0.4"],
    "ideal": ["--sigma", "0"],
    "isaac": ["--preset", "isaac"],
    "prime": ["--preset", "prime"],
    "neurram": ["--preset", "neurram"],
    "offset": ["--mapping", "offset:g_min=1e-6,g_max=1e-4,levels=16", "--scale-per", "column"],
    "cells": [
        "--levels",
        "8",
        "--stuck-off",
        "0.02",
        "--stuck-on",
        "0.01",
        "--copies",
        "2",
        "--clip",
        "99.5",
    ],
    "drift": ["--drift", "gamma:sigma=0.3", "--programming", "constant:sigma=0.05"],
    "wires": ["--wire-ohm", "2.0", "--tile", "16x16"],
    "converters": ["--adc-bits", "6", "--adc-range", "max", "--dac-bits", "7", "--read-noise", "0.02"],
}


def write_inputs() -> None:
    """A network whose weights are counted rather than trained, and its data, in the working directory."""
    random = np.random.Generator(np.random.Philox(7))
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.from_numpy(random.normal(0, 0.3, tuple(p.shape)).astype(np.float32)))
    x = random.normal(0, 1, (60, 1, 8, 8)).astype(np.float32)
    y = model(torch.from_numpy(x)).argmax(1).numpy()
    y[::7] = (y[::7] + 1) % 5
    np.savez("data.npz", x_test=x[:40], y_test=y[:40], x_train=x[40:], y_train=y[40:])
    program = torch.export.export(model.eval(), (torch.zeros(40, 1, 8, 8),))
    torch.export.save(program, "model.pt2")
    g = random.uniform(1e-6, 1e-4, (6, 5))
    np.savetxt("g.csv", g, delimiter=",")
    np.savetxt("v.csv", random.uniform(0, 0.3, (2, 6)), delimiter=",")
    target = np.repeat([2e-5, 5e-5, 8e-5], 40)
    measured = target * np.exp(random.normal(0, 0.1, 120)) + random.normal(0, 2e-6, 120)
    times = np.tile([1, 10, 100, 1000], 30)
    Path("cells.csv").write_text(
        "target_S,measured_S,time_s\n"
        + "".join(f"{a:.6e},{b:.6e},{t}\n" for a, b, t in zip(target, measured, times, strict=True))
    )


def outputs() -> Iterator[tuple[str, str]]:
    """Every file by name, with its text; runs in an empty working directory."""
    write_inputs()
    for name, design in DESIGNS.items():
        few = ["--chips", "3", "--sensitivity-chips", "1"]
        check(["deploy", "model.pt2", "--data", "data.npz", *design, *few, "--json", f"deploy-{name}.json"])
        yield f"deploy-{name}.json", Path(f"deploy-{name}.json").read_text()
    for name in ("default", "cells", "offset", "drift"):
        check(["export", "model.pt2", f"{name}.h5", *DESIGNS[name], "--chip", "3"])
        yield f"chip-{name}.json", json.dumps(chip(Path(f"{name}.h5")), indent=1) + "\n"
    sweep = ["sweep", *map(str, CHECKPOINTS), "--data", "data.npz", "--sigma", "0:0.8:3", "--chips", "4"]
    check([*sweep, "--results", "sweep.db", "--json", "sweep.json"])
    yield "sweep.json", Path("sweep.json").read_text()
    check(["results", "sweep.db", "--format", "csv", "-o", "sweep.csv"])
    yield "sweep.csv", Path("sweep.csv").read_text()
    check(["results", "sweep.db", "--format", "json", "-o", "trials.json"])
    yield "trials.json", Path("trials.json").read_text()
    check(
        [
            "sensitivity",
            "model.pt2",
            "--data",
            "data.npz",
            "--sigma",
            "0.4",
            "--chips",
            "3",
            "--json",
            "drops.json",
        ]
    )
    yield "sensitivity.json", Path("drops.json").read_text()
    check(["cost", "model.pt2", "--preset", "isaac", "--json", "cost.json"])
    yield "cost.json", Path("cost.json").read_text()
    check(["solve", "g.csv", "v.csv", "--wire-ohm", "1.5", "--json", "solve.json"])
    yield "solve.json", Path("solve.json").read_text()
    check(["fit-device", "cells.csv", "--json", "fit.json"])
    yield "fit-device.json", Path("fit.json").read_text()
    adc = ["--adc-bits", "6", "--adc-range", "calibrated"]
    check(["calibrate", "model.pt2", "--data", "data.npz", *adc, "-o", "ranges.json"])
    yield "calibrated.json", Path("ranges.json").read_text()


def check(arguments: list[str]) -> None:
    """Run one command, which must succeed."""
    code = run(arguments)
    assert code == 0, f"exit code {code}: crossbar-sim {' '.join(arguments)}"


def chip(path: Path) -> dict[str, Any]:
    """Names, shapes, attributes and bits of everything in a chip file."""
    found: dict[str, Any] = {}

    def note(name: str, item: Any) -> None:
        attributes = {k: str(v) for k, v in sorted(item.attrs.items()) if k not in LEFT_OUT}
        bits = hashlib.sha256(item[()].tobytes()).hexdigest() if isinstance(item, h5py.Dataset) else None
        found[name] = {"attributes": attributes, "shape": list(getattr(item, "shape", ())), "bits": bits}

    with h5py.File(path) as file:
        note("/", file)
        file.visititems(note)
    return found


def differences(old: Any, new: Any, at: str = "") -> Iterator[str]:
    """Where two parsed files differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        if list(old) != list(new):
            yield f"{at}: keys {list(old)} and {list(new)}"
        for key in old:
            if key in new and key not in LEFT_OUT:
                yield from differences(old[key], new[key], f"{at}.{key}")
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{at}: {len(old)} and {len(new)} items"
        for i, (a, b) in enumerate(zip(old, new, strict=False)):
            yield from differences(a, b, f"{at}[{i}]")
    elif isinstance(old, float | int) and isinstance(new, float | int) and type(old) is type(new):
        if not math.isclose(old, new, rel_tol=1e-5, abs_tol=1e-9):
            yield f"{at}: {old} and {new}"
    elif old != new:
        yield f"{at}: {old!r} and {new!r}"


def parsed(name: str, text: str) -> Any:
    """A JSON file, or the rows of a CSV file with its numbers as numbers."""
    if name.endswith(".json"):
        return json.loads(text)
    return [{key: number(cell) for key, cell in row.items()} for row in csv.DictReader(io.StringIO(text))]


def number(cell: str) -> Any:
    try:
        return float(cell)
    except ValueError:
        return cell


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files as this commit writes them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("frozen"))
        return dict(outputs())


@pytest.mark.parametrize("path", sorted(FROZEN.glob("*.*")), ids=lambda path: path.name)
def test_an_output_is_as_an_earlier_commit_wrote_it(path: Path, written: dict[str, str]) -> None:
    old, new = parsed(path.name, path.read_text()), parsed(path.name, written[path.name])
    assert not list(differences(old, new))


def test_a_changed_number_and_a_changed_name_are_differences() -> None:
    old = {"a": [1.0, {"b": "x"}]}
    assert list(differences(old, {"a": [1.0001, {"b": "x"}]}))
    assert list(differences(old, {"a": [1.0, {"c": "x"}]}))
    assert list(differences(old, {"a": [1.0, {"b": "y"}]}))
    assert not list(differences(old, {"a": [1.0 + 1e-9, {"b": "x"}]}))


if __name__ == "__main__":
    import os
    import tempfile

    FROZEN.mkdir(parents=True, exist_ok=True)
    target = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else FROZEN.resolve()
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for file_name, text in outputs():
            (target / file_name).write_text(text)
