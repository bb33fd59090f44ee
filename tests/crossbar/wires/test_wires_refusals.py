"""What is refused, and the kernels without the compiler."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crossbar_sim import InputError
from crossbar_sim.crossbar.wires import Sinh, Wires, solve_nodes
from crossbar_sim.crossbar.wires import wires as exact


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"r_word": -1}, "r_word=-1: a resistance must be 0 ohm"),
        ({"r_bit": float("nan")}, "r_bit=nan"),
        ({"r_sense": float("inf")}, "r_sense=inf"),
        ({"r_source": "1"}, "r_source='1'"),
        ({"r_word": 1e-12}, "1e-12: a resistance must be 0 ohm .ideal. or in 1e-9"),
        ({"r_word": True}, "r_word=True"),
        ({"inputs": "bth"}, "did you mean 'both'"),
        ({"method": "exct"}, "did you mean 'exact'"),
        ({"tolerance": 0}, "tolerance=0"),
        ({"tolerance": 1}, "tolerance=1"),
    ],
)
def test_impossible_wires(values, text):
    with pytest.raises(InputError, match=text):
        Wires(**values)


@pytest.mark.parametrize(
    "g",
    [np.ones(3), np.ones((2, 2, 2)), np.array([[1.0, -1e-9]]), np.array([[np.nan, 1]]), np.array([[np.inf, 1]]),
     np.array([[2e6]])],
)  # fmt: skip
def test_impossible_cells(g):
    with pytest.raises(InputError, match=r"expected a tile|each must be in 0"):
        Wires(1, 1).effective(g)
    with pytest.raises(InputError, match=r"expected a tile|each must be in 0"):
        solve_nodes(g, np.ones(len(g)), Wires(1, 1))


@pytest.mark.parametrize(
    "v", [np.ones(2), np.ones((2, 2)), np.ones((0, 3)), np.array([1, 2, np.nan]), np.full(3, 1e9), 1.0]
)
def test_impossible_inputs(v):
    with pytest.raises(InputError, match=r"^v "):
        solve_nodes(np.ones((3, 2)), v, Wires(1, 1))


def test_a_tile_without_cells():
    with pytest.raises(InputError, match="needs a cell"):
        solve_nodes(np.ones((3, 0)), np.ones(3), Wires(1, 1))
    assert Wires(1, 1).effective(np.ones((3, 0))).shape == (3, 0)


def test_too_much_memory_for_exact_node_voltages(monkeypatch):
    monkeypatch.setattr(exact, "MEMORY", 100)
    with pytest.raises(InputError, match="use the fast method"):
        solve_nodes(np.ones((3, 2)), np.ones(3), Wires(1, 1, method="exact"))
    assert Wires(1, 1, method="exact").effective(np.ones((3, 2))).shape == (3, 2)


def results() -> dict[str, np.ndarray]:
    """A small run through every kernel: whole blocks of eight lines and a rest."""
    g = np.exp(np.sin(np.arange(110.0))).reshape(11, 10) * 1e-3
    out = {}
    for inputs in ("one", "both"):
        for method in ("fast", "exact"):
            wires = Wires(1, 2, 3, 4, inputs, 1e-6, method)
            out[f"{inputs} {method}"] = wires.effective(g)
            out[f"{inputs} {method} turned"] = wires.effective(g.T)
            out[f"{inputs} {method} nodes"] = solve_nodes(
                g, np.linspace(0, 1, 11), wires, Sinh(1)
            ).bit_voltages
    return out


def test_the_same_without_the_compiler(tmp_path: Path):
    """It shows that no index leaves its array, which compiled code would not notice."""
    here, path = Path(__file__).resolve(), tmp_path / "results.npz"
    environment = dict(os.environ, NUMBA_DISABLE_JIT="1")
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(here.parents[3]), str(here.parents[2]), str(here.parent)]
    )
    code = "import sys, numpy as np, test_wires_refusals as t\nnp.savez(sys.argv[1], **t.results())"
    run = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", code, str(path)],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    with np.load(path) as interpreted:
        for name, expected in results().items():
            assert interpreted[name] == pytest.approx(expected, rel=1e-11), name
