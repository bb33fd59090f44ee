"""The file itself: its bytes, its attributes, and what happens when it cannot be written."""

import errno
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.chip_files import export, fill, two_layers
from torch import nn

from crossbar_sim import Hardware, InputError, LogNormalDrift, Offset, StuckCells
from crossbar_sim.crossbar import threads
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.analog.chips import analog_state
from crossbar_sim.rng import STREAM_VERSION
from crossbar_sim.store import describe_chip, hdf5, read_chip

HARDWARE = Hardware(
    Offset(levels=9, scale_per="column"), LogNormalDrift(0.3), stuck=StuckCells(0.1), bias="row"
)


def test_attributes(tmp_path: Path) -> None:
    analog = to_analog(two_layers(), HARDWARE, seed=2**64 - 1, chip=2**32 - 1)
    path = export(analog, tmp_path / "chip.h5", HARDWARE, seed=2**64 - 1, chip=2**32 - 1)
    with h5py.File(path) as file:
        root = dict(file.attrs)
        hardware = json.loads(root.pop("hardware"))
        assert hardware["drift"] == {"kind": "lognormal", "sigma": 0.3}
        assert root == {
            "format": b"crossbar-sim chip", "format_version": 1, "seed": 2**64 - 1, "chip": 2**32 - 1,
            "model_sha256": b"ab" * 32, "version": b"0.1.0", "stream_version": STREAM_VERSION,
        }  # fmt: skip
        assert list(file["layers"]) == ["0", "2"]
        array = dict(file["layers/0"].attrs)
        assert array.pop("scale").shape == (5,)
        assert array.pop("tile").tolist() == [128, 128]
        assert array.pop("parameter_shape").tolist() == [5, 7]
        assert array == {
            "parameter": b"0.weight", "layout": b"out_in", "bias_row": 1, "rows": 8, "cols": 5, "groups": 1,
            "mapping": b"offset", "g_min": 0.0, "g_max": 1e-4, "levels": 9, "copies": 1,
        }  # fmt: skip
        for name in ("g_target", "g_programmed", "g_drifted", "faults"):
            dataset = file["layers/0"][name]
            assert dataset.shape == (1, 8, 6)
            assert dataset.fletcher32
            assert (dataset.compression, dataset.shuffle) == ("gzip", True)
            assert [axis.label for axis in dataset.dims] == ["plane", "row", "column"]
        assert file["layers/0/g_drifted"].attrs["units"] == b"S"
    chip = read_chip(path)
    assert (chip.seed, chip.chip, chip.hardware) == (2**64 - 1, 2**32 - 1, HARDWARE)
    assert (chip.version, chip.model_sha256, chip.format_version) == ("0.1.0", "ab" * 32, 1)


def test_same_bytes_whatever_the_time_and_threads(tmp_path: Path) -> None:
    model = to_analog(fill(nn.Linear(700, 300)), HARDWARE, 1, 2)
    before = threads.threads()
    files = []
    try:
        for count in (1, 3):
            threads.set_threads(count)
            files.append(export(model, tmp_path / f"{count}.h5", HARDWARE, 1, 2).read_bytes())
            time.sleep(1.1)  # HDF5 keeps times in whole seconds
    finally:
        threads.set_threads(before)
    assert files[0] == files[1]
    assert export(model, tmp_path / "other.h5", HARDWARE, 1, 3).read_bytes() != files[0]


def test_layers_keep_the_models_order_and_scales_beyond_64_kib(tmp_path: Path) -> None:
    model = fill(nn.Sequential(*(nn.Linear(2, 2) for _ in range(11)), nn.Linear(2, 20_000)))
    path = export(to_analog(model, HARDWARE), tmp_path / "chip.h5", HARDWARE)
    chip = read_chip(path)
    assert [array.name for array in chip.arrays] == [f"{i}.weight" for i in range(12)]
    assert chip.arrays[-1].scale is not None
    assert chip.arrays[-1].scale.size == 20_000


def test_progress_counts_all_cells(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    analog = to_analog(two_layers(), HARDWARE)
    export(analog, tmp_path / "chip.h5", HARDWARE, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(48, 72), (72, 72)]


def test_description(tmp_path: Path) -> None:
    analog = to_analog(two_layers(), HARDWARE, seed=4, chip=7)
    path = export(analog, tmp_path / "chip.h5", HARDWARE, seed=4, chip=7)
    lines = dict(describe_chip(path))
    assert lines["chip"] == "7"
    assert lines["seed"] == "4"
    assert lines["hardware"].startswith("offset, 0 to 100 µS; 9 levels; a scale per column; stuck stuck (")
    with h5py.File(path) as file:
        g, faults = file["layers/0/g_drifted"][:] * 1e6, file["layers/0/faults"][:]
    assert f"{g.min():.4g} / {np.median(g):.4g} / {g.max():.4g} µS" in lines["0.weight"]
    assert f"{np.count_nonzero(faults)} stuck cells" in lines["0.weight"]
    assert "1 x 8 x 6" in lines["0.weight"]


@pytest.mark.parametrize("old", [None, b"what was there"])
def test_a_failed_write_leaves_what_was_there(old: bytes | None, tmp_path: Path, monkeypatch) -> None:
    """The disk fills up at every one of the writes in turn."""
    path = tmp_path / "chip.h5"
    if old is not None:
        path.write_bytes(old)
    analog = to_analog(two_layers(), HARDWARE)
    export(analog, tmp_path / "whole.h5", HARDWARE)
    whole = hdf5.DiskFile.write
    for last in range(10_000):
        left = [last]

        def write(self: hdf5.DiskFile, data: object, left: list[int] = left) -> int:
            left[0] -= 1
            if left[0] < 0 and self.error is None:
                self.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return whole(self, data)

        with monkeypatch.context() as patch:
            patch.setattr(hdf5.DiskFile, "write", write)
            if last == 0:
                with pytest.raises(InputError, match="No space left"):
                    export(analog, path, HARDWARE)
            try:
                export(analog, path, HARDWARE)
                break
            except InputError as error:
                assert str(error).count("\n") == 0  # noqa: PT017 - or no error
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
            {"whole.h5"} | ({"chip.h5"} if old else set())
        )
        assert old is None or path.read_bytes() == old
    assert last > 10
    assert path.read_bytes() == (tmp_path / "whole.h5").read_bytes()


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip


def test_a_limit_on_the_files_size(tmp_path: Path) -> None:
    """As a full disk, by the system itself; the process then ends without a crash."""
    code = """
        import resource, sys
        from helpers.chip_files import export, fill
        from torch import nn
        from crossbar_sim import Hardware, InputError, LogNormalDrift
        from crossbar_sim.nn import to_analog
        hardware = Hardware(drift=LogNormalDrift(0.6))
        analog = to_analog(fill(nn.Sequential(nn.Linear(500, 500), nn.Linear(500, 9))), hardware)
        export(analog, sys.argv[1], hardware)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        try:
            export(analog, sys.argv[1], hardware)
        except InputError as error:
            print(error)
    """
    result = run(code, tmp_path / "chip.h5")
    assert (result.returncode, result.stderr) == (0, "")
    assert "File too large" in result.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["chip.h5"]
    assert len(read_chip(tmp_path / "chip.h5").arrays) == 2


def test_where_no_file_can_be(tmp_path: Path) -> None:
    analog = to_analog(two_layers(), HARDWARE)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "none" / "chip.h5", tmp_path / "pipe", tmp_path / "file" / "chip.h5",
                 tmp_path / ("x" * 300), Path("/proc/chip.h5")):  # fmt: skip
        with pytest.raises(InputError) as error:
            export(analog, path, HARDWARE)
        assert "\n" not in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "pipe"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="Permission denied"):
            export(to_analog(two_layers(), HARDWARE), tmp_path / "chip.h5", HARDWARE)
    finally:
        tmp_path.chmod(0o700)


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(to_analog(two_layers(), HARDWARE), tmp_path / "chip.h5", HARDWARE, progress=stop)
    assert not list(tmp_path.iterdir())


def test_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chip.h5"
    analog = to_analog(two_layers(), HARDWARE)
    with pytest.raises(InputError, match="not analog"):
        export(two_layers(), path, HARDWARE)
    with pytest.raises(InputError, match="bias='digital' where the model was mapped with 'row'"):
        export(analog, path, Hardware())
    with pytest.raises(InputError, match="seed"):
        export(analog, path, HARDWARE, seed=-1)
    with pytest.raises(InputError, match="chip"):
        export(analog, path, HARDWARE, chip=2**32)
    broken = to_analog(two_layers(), HARDWARE)
    broken[2]._parameters["weight"].data[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"2\.weight holds 1 NaN"):
        export(broken, path, HARDWARE)
    export(analog, path, HARDWARE)
    analog_state(analog).set_maps(read_chip(path).maps())
    with pytest.raises(InputError, match="computes with the conductances of a chip file"):
        export(analog, path, HARDWARE)


def test_memory_of_a_large_layer() -> None:
    """A matrix of 64 MB: the pieces of an export, and of reading one back, stay below half of it.

    Its file has six times as much data as the matrix.
    """
    code = """
        import os, resource, sys, tempfile, torch
        from torch import nn
        from helpers.chip_files import export
        from crossbar_sim import Hardware, LogNormalDrift
        from crossbar_sim.crossbar import threads
        from crossbar_sim.nn import to_analog
        from crossbar_sim.store import read_chip

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

        threads.set_threads(2)
        hardware = Hardware(drift=LogNormalDrift(0.6))
        with tempfile.TemporaryDirectory() as folder:
            small = to_analog(nn.Linear(64, 64, bias=False), hardware)
            export(small, folder + "/small.h5", hardware)
            read_chip(folder + "/small.h5").maps()("weight", small._parameters["weight"].detach().numpy())
            layer = nn.Linear(4096, 4096, bias=False)
            nn.init.zeros_(layer.weight)
            layer.weight.data[:, ::2] = 0.5
            analog = to_analog(layer, hardware)
            before = peak()
            export(analog, folder + "/chip.h5", hardware)
            exported = peak() - before
            before = peak()
            read_chip(folder + "/chip.h5").maps()("weight", layer.weight.detach().numpy())
            print(exported, peak() - before)
    """
    result = run(code)
    assert result.returncode == 0, result.stderr
    exported, read = map(float, result.stdout.split())
    assert exported < 64 * 0.75
    assert read < 64 * 1.5  # the matrix that it returns, and pieces
