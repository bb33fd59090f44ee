"""Every file that cannot be used gives one sentence with its name, the cause and the remedy."""

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.chip_files import export, two_layers

from crossbar_sim import Hardware, InputError, LogNormalDrift
from crossbar_sim.nn import to_analog
from crossbar_sim.store import describe_chip, read_chip

HARDWARE = Hardware(drift=LogNormalDrift(0.3))
Change = Callable[[h5py.File], object]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return export(to_analog(two_layers(), HARDWARE), tmp_path / "chip.h5", HARDWARE)


def attribute(item: str, name: str, value: object) -> Change:
    def change(file: h5py.File) -> None:
        file[item].attrs[name] = value

    return change


def without(item: str, name: str) -> Change:
    def change(file: h5py.File) -> None:
        del file[item].attrs[name]

    return change


def dataset(
    values: object, name: str = "layers/0/g_drifted", units: str | None = "S", **more: object
) -> Change:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        made = file.create_dataset(name, **(more if values is None else {"data": values} | more))
        if units is not None:
            made.attrs["units"] = units

    return change


def link(target: object, name: str = "layers/0/g_drifted") -> Change:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = target

    return change


def virtual(file: h5py.File) -> None:
    del file["layers/0/g_drifted"]
    layout = h5py.VirtualLayout((2, 7, 5), "f4")
    layout[:] = h5py.VirtualSource("secret.h5", "x", (2, 7, 5))
    file.create_virtual_dataset("layers/0/g_drifted", layout)


def sparse(file: h5py.File) -> None:
    dataset(None, shape=(2, 700, 500), dtype="f4", chunks=(1, 100, 100))(file)
    file["layers/0/g_drifted"][0, :100, :100] = 1e-5


def doubly_compressed(file: h5py.File) -> None:
    del file["layers/0/g_drifted"]
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((2, 7, 5))
    plan.set_deflate(9)
    plan.set_deflate(9)
    space = h5py.h5s.create_simple((2, 7, 5))
    made = h5py.h5d.create(file["layers/0"].id, b"g_drifted", h5py.h5t.IEEE_F32LE, space, plan)
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.zeros((2, 7, 5), "f4"))


ON_OPENING: dict[str, tuple[Change, str]] = {
    "other format": (attribute("/", "format", "keras"), "has the format 'keras' and is not a chip file"),
    "newer": (attribute("/", "format_version", 2), "format_version 2 .* reads up to 1: update"),
    "no version": (without("/", "format_version"), "has no format_version"),
    "version in words": (attribute("/", "format_version", "one"), "format_version .* must be a number"),
    "hardware": (attribute("/", "hardware", '{"drift": 3}'), "hardware: .*drift"),
    "hardware no json": (attribute("/", "hardware", "{"), "the JSON cannot be read"),
    "long string": (attribute("/", "version", "x" * 70_000), "more than 65536 characters"),
    "long fixed string": (attribute("/", "version", np.bytes_(b"x" * 70_000)), "more than 65536 bytes"),
    "strings": (attribute("/", "version", ["a", "b"]), "version is not a string"),
    "seed": (attribute("/", "seed", -1), "seed is not an integer in 0"),
    "chip": (attribute("/", "chip", 0.5), "chip is not an integer"),
    "no layers": (lambda file: file.pop("layers"), "holds no group /layers"),
    "no arrays": (lambda file: [file["layers"].pop(n) for n in ("0", "2")], "/layers is empty"),
    "no drifted": (lambda file: file.pop("layers/0/g_drifted"), "/layers/0: holds no dataset g_drifted"),
    "nothing": (lambda file: file.create_group("layers/9"), "'/layers/9' holds no dataset g_drifted"),
    "no units": (without("layers/0/g_drifted", "units"), 'has no units: set .* "S" or "uS"'),
    "units": (attribute("layers/0/g_drifted", "units", "ohm"), "units 'ohm' of g_drifted are unknown"),
    "no string": (attribute("layers/0/g_drifted", "units", 3), "units is not a string"),
    "integers": (dataset(np.ones((2, 7, 5), int)), "g_drifted is not float32 or float64"),
    "half": (dataset(np.ones((2, 7, 5), "f2")), "g_drifted is not float32 or float64"),
    "text": (dataset(np.full((2, 7, 5), b"a")), "g_drifted is not float32 or float64"),
    "compound": (dataset(np.zeros((2, 7, 5), "f4,f4")), "g_drifted is not float32 or float64"),
    "matrix": (dataset(np.ones((7, 5))), r"has shape \(7, 5\): expected \(planes, rows, columns\)"),
    "scalar": (dataset(1.0), r"has shape \(\): expected"),
    "null": (dataset(h5py.Empty("f4")), "has no shape: expected"),
    "other stage": (dataset(np.ones((2, 7, 4)), "layers/0/g_target"), "give both the same shape"),
    "faults": (dataset(np.ones((2, 7, 5)), "layers/0/faults"), "faults is not uint8"),
    "absurd": (dataset(None, shape=(2, 10**9, 10**9), dtype="f4", chunks=(1, 9, 9)), "claims shape"),
    "never written": (dataset(None, shape=(2, 7, 5), dtype="f4"), "claims shape .* and has 0 bytes"),
    "half written": (sparse, "claims shape|lacks some of its chunks"),
    "huge chunk": (
        dataset(np.ones((2, 2000, 2000), "f4"), chunks=(2, 2000, 2000), compression=1), "more than 16 MiB",
    ),
    "bomb": (doubly_compressed, "gzip more than once"),
    "lzf": (dataset(np.ones((2, 7, 5), "f4"), compression="lzf"), "HDF5 filter 32000: save it"),
    "soft": (link(h5py.SoftLink("/layers/2/g_drifted")), "is a soft or external link"),
    "external": (link(h5py.ExternalLink("secret.h5", "x")), "is a soft or external link"),
    "external group": (link(h5py.ExternalLink("secret.h5", "/"), "layers/9"), "is a soft or external link"),
    "external inside": (link(h5py.ExternalLink("secret.h5", "/"), "layers/0/x"), "soft or external link"),
    "virtual": (virtual, "is stored in other files"),
    "raw elsewhere": (
        dataset(None, shape=(2, 7, 5), dtype="f4", external=[("secret.bin", 0, 280)]), "is stored in other files",
    ),
    "dataset for group": (dataset(np.ones(3), "layers/9"), "'9' in '/layers' is not a group"),
    "type for dataset": (link(np.dtype("f4")), "'g_drifted' in '/layers/0' is not a dataset"),
    "mapping": (attribute("layers/0", "mapping", "diferential"), "did you mean 'differential'"),
    "other mapping": (attribute("layers/0", "copies", 3), "2 planes, which are not 3 copies"),
    "copies": (attribute("layers/0", "copies", 0), "copies is not an integer"),
    "window": (attribute("layers/0", "g_max", 0.0), "g_max=0.0: a conductance"),
    "half window": (without("layers/0", "g_max"), "g_min and g_max go together"),
    "scale": (attribute("layers/0", "scale", -1.0), "scale must be above 0"),
    "scale nan": (attribute("layers/0", "scale", [1.0, np.nan]), "not a finite number"),
    "scales": (attribute("layers/0", "scale", [1.0, 1.0]), "2 scales for 5 columns"),
    "many scales": (attribute("layers/0", "scale", np.ones(9)), "up to 5 numbers"),
    "rows": (attribute("layers/0", "rows", 8), "rows says 8"),
    "cols": (attribute("layers/0", "cols", 4), "cols says 4"),
    "parameter": (attribute("layers/0", "parameter", "1.weight"), "whose place is '/layers/1'"),
}  # fmt: skip


@pytest.mark.parametrize("case", ON_OPENING)
def test_refused_on_opening(case: str, good: Path) -> None:
    change, words = ON_OPENING[case]
    (good.parent / "secret.bin").write_bytes(b"\0" * 280)
    with h5py.File(good.parent / "secret.h5", "w") as file:
        file["x"] = np.full((2, 7, 5), 1e-5, "f4")
        file["x"].attrs["units"] = "S"
    os.chdir(good.parent)  # where relative names of other files would be found
    with h5py.File(good, "a") as file:
        change(file)
    with pytest.raises(InputError, match=words) as error:
        read_chip(good)
    assert str(error.value).startswith(f"{good}: ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400 + len(str(good))


@pytest.fixture(autouse=True)
def _come_back():
    before = Path.cwd()
    yield
    os.chdir(before)


ON_READING: dict[str, tuple[Change, str]] = {
    "nan": (dataset(np.full((2, 7, 5), np.nan, "f4")), "holds 70 NaN or infinite values"),
    "infinite": (dataset(np.full((2, 7, 5), 1e39)), "holds 70 NaN or infinite values"),
    "negative": (dataset(np.full((2, 7, 5), -2e-6, "f4")), "negative values such as -2e-06 S"),
    "smaller": (
        lambda file: [file["layers"].pop("0"), dataset(np.ones((2, 6, 5)))(file)],
        r"shape \(2, 6, 5\) and 0\.weight of the model needs \(2, 7, 5\)",
    ),
    "no scale": (
        lambda file: [file["layers"].pop("0"), file.attrs.pop("hardware"), dataset(np.ones((2, 7, 5)))(file)],
        r"/layers/0 has no attribute scale",
    ),
    "planes": (
        lambda file: [file["layers"].pop("0"), dataset(np.ones((3, 7, 5)))(file)], "has 3 planes: two are",
    ),
    "no reference": (
        lambda file: [file["layers"].pop("0"), dataset(np.ones((1, 7, 5)))(file)],
        r"needs \(1, 7, 6\), planes, rows and columns \(the last is the reference column\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ON_READING)
def test_refused_on_reading(case: str, good: Path) -> None:
    change, words = ON_READING[case]
    with h5py.File(good, "a") as file:
        change(file)
    with pytest.raises(InputError, match=words) as error:
        read_chip(good).maps()("0.weight", np.ones((5, 7), np.float32))
    assert str(error.value).startswith(f"{good}: ")
    assert "\n" not in str(error.value)


def test_a_damaged_chunk(good: Path) -> None:
    with h5py.File(good) as file:
        where = file["layers/0/g_drifted"].id.get_chunk_info(0)
    content = bytearray(good.read_bytes())
    content[where.byte_offset + where.size // 2] ^= 4
    good.write_bytes(content)
    for read in (
        lambda: read_chip(good).maps()("0.weight", np.ones((5, 7), np.float32)),
        lambda: describe_chip(good),
    ):
        with pytest.raises(InputError, match="is damaged or was not written completely"):
            read()


@pytest.mark.parametrize("content", [b"\1" * 4, b"\1" * 280, b"\1" * 10**6])
@pytest.mark.parametrize("filters", ["gzip", "gzip skipped", "none"])
def test_chunks_of_another_size(filters: str, content: bytes, good: Path) -> None:
    """HDF5 itself would read beyond a short one and take any memory for a long one."""
    compression = {} if filters == "none" else {"compression": "gzip"}
    with h5py.File(good, "a") as file:
        dataset(None, shape=(2, 7, 5), dtype="f4", chunks=(2, 7, 5), **compression)(file)
        raw = zlib.compress(content) if filters == "gzip" else content
        file["layers/0/g_drifted"].id.write_direct_chunk((0, 0, 0), raw, int(filters == "gzip skipped"))
    maps = read_chip(good).maps()
    if len(content) == 280:
        assert maps("0.weight", np.ones((5, 7), np.float32)) is not None
        return
    with pytest.raises(InputError, match=r"does not end where|bytes instead of 280|stored in \d+"):
        maps("0.weight", np.ones((5, 7), np.float32))


def test_a_chunk_without_its_checksum(good: Path) -> None:
    with h5py.File(good, "a") as file:
        drifted = file["layers/0/g_drifted"]
        _, raw = drifted.id.read_direct_chunk((0, 0, 0))
        drifted.id.write_direct_chunk((0, 0, 0), raw[:-4], 4)
    with pytest.raises(InputError, match="exempt from its checksum"):
        read_chip(good).maps()("0.weight", np.ones((5, 7), np.float32))


def test_unknown_fault_codes(good: Path) -> None:
    with h5py.File(good, "a") as file:
        file["layers/0/faults"][0, 0, 0] = 3
    with pytest.raises(InputError, match="codes above 2"):
        describe_chip(good)


def test_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("not HDF5")
    (tmp_path / "behind").write_bytes(b"\0" * 512 + b"\x89HDF\r\n\x1a\n" + b"\0" * 600)
    for name, words in (
        ("none", "there is no such file"), (".", "is a directory"), ("pipe", "not a regular file"),
        ("empty", "is empty"), ("text", "is not an HDF5 file"), ("behind", "is not an HDF5 file"),
        ("text/x", "cannot be opened"), ("nul\0", "cannot be opened"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words) as error:
            read_chip(tmp_path / name)
        assert "\n" not in str(error.value)


def test_another_models_file(good: Path) -> None:
    with pytest.raises(InputError, match=r"it has /layers/0, /layers/2 and the model needs /layers/fc1"):
        read_chip(good).check_against(["fc1.weight"])


def test_a_file_that_goes_away(good: Path) -> None:
    maps = read_chip(good).maps()
    with h5py.File(good, "a") as file:
        del file["layers/0"]
    with pytest.raises(InputError, match="is not there any more"):
        maps("0.weight", np.ones((5, 7), np.float32))
    good.unlink()
    with pytest.raises(InputError, match="there is no such file"):
        maps("0.weight", np.ones((5, 7), np.float32))


def test_nothing_is_changed_by_reading(good: Path) -> None:
    before = good.read_bytes()
    describe_chip(good)
    assert good.read_bytes() == before
