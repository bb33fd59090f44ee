"""The kernels as plain Python (NUMBA_DISABLE_JIT=1): the same words, the same numbers to the last places.

It shows that nothing rests on the compiler's habits, and lets coverage see the kernels' lines.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.law_examples import KINDS, LAWS

from crossbar_sim import ALL_MAPPINGS, Hardware, Key, LogNormalDrift, ProgrammingNoise, StuckCells
from crossbar_sim.crossbar.converters import DAC, drive
from crossbar_sim.crossbar.stream import Stream

KEY = Key(31).fold("jit")
W = np.sin(np.arange(12, dtype=np.float32)).reshape(4, 3)


def results() -> dict[str, np.ndarray]:
    """One small run through every kernel: a whole group and a tail, every law, every mapping."""
    stream = Stream.of(KEY, chip=2, plane=1, event=3)
    out = {"words": stream.words(300, 256), "normals": stream.normals(300, 256)}
    for kind, law in zip(KINDS, LAWS, strict=True):
        out[kind] = law.apply(np.linspace(0.1, 2, 261, dtype=np.float32), KEY, 1)
    for mapping in ALL_MAPPINGS:
        for scale_per in ("matrix", "column"):
            hardware = Hardware(
                mapping(1e-6, 1e-4, levels=9, scale_per=scale_per, copies=2),
                LogNormalDrift(0.5),
                ProgrammingNoise(0.02),
                StuckCells(0.1, 0.1),
                tile=(3, 2),
            )
            array = hardware.program(W, KEY, 4)
            what = f"{mapping.kind} {scale_per}"
            out[f"{what} faults"] = array.faults
            out[f"{what} target"] = array.target
            out[f"{what} drifted"] = array.drifted
            out[f"{what} weight"] = array.weight
            out[f"{what} product"] = array.matvec(np.ones((2, 4), np.float32))
            # out of bounds would go unseen in compiled code
            out[f"{what} empty"] = hardware.program(W[:, :0], KEY, 4).drifted
    for kind in ALL_MAPPINGS:
        sliced = Hardware(kind(0.0, 1e-4, levels=60, cell_bits=2), LogNormalDrift(0.5))
        out[f"{kind.kind} sliced weight"] = sliced.program(W, KEY, 4).weight
    for signed in ("sign-magnitude", "two-phase"):
        for dac in (DAC(6, 0.7, signed), DAC(6, 0.7, signed, slice_bits=2), DAC(range=0.7, signed=signed)):
            out[f"codes {dac}"] = drive(W, dac, None, "w").codes
    one_pass = Hardware(drift=LogNormalDrift(0.5), drift_per="weight")
    columns = np.resize(W, (3, 100)).astype(np.float32)
    out["one pass"] = one_pass.effective_weight(columns, KEY, 0)
    return out


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory) -> dict[str, np.ndarray]:
    """The same run in a process without the compiler, every warning of NumPy an error."""
    path = tmp_path_factory.mktemp("jit_off") / "results.npz"
    here = Path(__file__).resolve()
    tests, root = here.parents[1], here.parents[2]
    environment = dict(os.environ, NUMBA_DISABLE_JIT="1")
    environment["PYTHONPATH"] = os.pathsep.join([str(root), str(tests), str(here.parent)])
    code = (
        "import sys, numpy as np, test_jit_off as t\n"
        "from crossbar_sim.crossbar.kernels import fill_words\n"
        "assert not hasattr(fill_words, 'py_func'), 'the compiler is on'\n"
        "np.savez(sys.argv[1], **t.results())\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", code, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    with np.load(path) as file:
        return dict(file)


def test_the_same_words_and_the_same_numbers(interpreted):
    compiled = results()
    assert set(interpreted) == set(compiled)
    for name, expected in compiled.items():
        got = interpreted[name]
        assert got.dtype == expected.dtype, name
        assert got.shape == expected.shape, name
        if np.issubdtype(expected.dtype, np.integer) or name.endswith("target"):
            assert np.array_equal(got, expected), name
        elif name.endswith(("weight", "product")):  # differences of nearly equal conductances
            assert np.allclose(got, expected, rtol=1e-6, atol=1e-5), name
        else:
            size = np.max(np.abs(expected), initial=0)
            assert np.allclose(got, expected, rtol=1e-6, atol=1e-6 * size), name
