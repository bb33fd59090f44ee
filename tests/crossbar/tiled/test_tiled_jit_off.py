"""The tiled kernels as plain Python (NUMBA_DISABLE_JIT=1): the same numbers to the last places."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from crossbar_sim import Key
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.crossbar.tiled import Quantiser, TiledPlanes, convolution, product


def results() -> dict[str, np.ndarray]:
    """A little of everything: two tiles, slices, planes that are no whole panel, images with a frame and a row."""
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (2, 9, 3)).astype(np.float32)
    planes = rng.integers(-3, 4, (2, 3, micro_columns())).astype(np.float32)
    stream = Stream.of(Key(3).fold("read"), 1)
    out = {}
    for what, quantiser in (("ideal", None), ("converted", Quantiser(0.5, -5, 6, offset=0.25))):
        for noisy in (False, True):
            tiled = TiledPlanes(
                planes,
                tile_rows=2,
                weights=(1, -0.5),
                quantiser=quantiser,
                variance=planes**2 if noisy else None,
            )
            y = product(tiled, x, input_weights=(1, 2), stream=stream if noisy else None)
            out[f"{what} {noisy}"] = y
    wide = TiledPlanes(planes[:, :, :3], tile_rows=2)
    out["one vector"] = product(wide, x[0])
    images = rng.integers(-3, 4, (2, 1, 3, 9)).astype(np.float32)
    out["plain images"] = convolution(wide, images, (3, 1))
    row = np.array([1, 2], np.float32)
    out["framed images"] = convolution(wide, images, (2, 1), padding=(1, (0, 1)), row=row)
    return out


def micro_columns() -> int:
    """One whole panel and two columns more."""
    from crossbar_sim.crossbar.tiled.kernels import WIDTH

    return WIDTH + 2


def test_the_same_numbers(tmp_path):
    path = tmp_path / "results.npz"
    here = Path(__file__).resolve()
    environment = dict(os.environ, NUMBA_DISABLE_JIT="1")
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(here.parents[3]), str(here.parents[2]), str(here.parent)]
    )
    code = (
        "import sys, numpy as np, test_tiled_jit_off as t\n"
        "from crossbar_sim.crossbar.tiled.kernels import read\n"
        "assert not hasattr(read, 'py_func'), 'the compiler is on'\n"
        "np.savez(sys.argv[1], **t.results())\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", code, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    compiled = results()
    with np.load(path) as interpreted:
        assert set(interpreted) == set(compiled)
        for name, expected in compiled.items():
            got = interpreted[name]
            assert got.dtype == expected.dtype, name
            if name.endswith("True"):  # the normals' last places
                assert np.allclose(got, expected, rtol=1e-5, atol=1e-5), name
            else:
                assert np.array_equal(got, expected), name
