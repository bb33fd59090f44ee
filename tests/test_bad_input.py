"""Every bad input: one clear line on standard error, exit code 2, existing files as they were."""

import io
import json
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from cli_runs import Files, Result
from torch import nn

Command = Callable[..., Result]


class Marked:
    """Unpickling one runs code of the file, which leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def pickled_weight(member: str, content: bytes, mark: Path) -> bytes:
    """A member of an archive, turned so that torch.export.load would unpickle code for a weight."""
    if member.endswith("model_weights_config.json"):
        config = json.loads(content)
        for entry in config["config"].values():
            entry["use_pickle"] = True
        return json.dumps(config).encode()
    if "/weights/weight_" in member:
        buffer = io.BytesIO()
        torch.save({"x": Marked(mark)}, buffer)
        return buffer.getvalue()
    return content


@pytest.fixture(scope="session")
def bad(files: Files, network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bad files."""
    folder = tmp_path_factory.mktemp("bad")
    generator = random.Random(0)
    good, archive = files.checkpoint.read_bytes(), files.dynamic.read_bytes()

    def spoilt(value: float) -> dict[str, torch.Tensor]:
        state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        state["fc2.weight"][3, 5] = value
        return state

    contents = {
        "empty.pt": b"",
        "garbage.pt": generator.randbytes(5000),
        "text.pt": b"hello, model\n" * 10,
        "truncated.pt": good[: len(good) // 2],
        "almost.pt": good[:-1],
        "truncated.pt2": archive[: len(archive) // 2],
        "flipped.pt2": archive[:4000] + generator.randbytes(3000) + archive[7000:],
        "lfs.pt": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "empty.h5": b"",
        "garbage.h5": b"\x89HDF\r\n\x1a\n" + generator.randbytes(5000),
        "empty.toml": b"",
        "broken.toml": b"[drift\n",
        "unknown.toml": b'[drift]\nkind = "lognormal"\nsigam = 0.5\n',
        "negative.toml": b'[drift]\nkind = "lognormal"\nsigma = -0.5\n',
        "unknown.json": b'{"tiles": [128, 128]}',
        "nan.json": b'{"mapping": {"kind": "differential", "g_max": NaN}}',
        "binary.toml": generator.randbytes(300),
        "huge.toml": b"#" * 1_000_000,
        "empty.npz": b"",
        "garbage.npz": generator.randbytes(3000),
        "truncated.npz": files.labelled.read_bytes()[:4000],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    torch.save(spoilt(float("nan")), folder / "nan.pt")
    torch.save(spoilt(float("inf")), folder / "infinite.pt")
    torch.save({"fc1.weight": torch.zeros(3, 3)}, folder / "other.pt")
    torch.save({}, folder / "nothing.pt")
    torch.save([1, 2, 3], folder / "list.pt")
    torch.save({"x": Marked(folder / "mark")}, folder / "hostile.pt")
    (folder / "plain.pkl").write_bytes(pickle.dumps(Marked(folder / "mark")))
    with zipfile.ZipFile(files.dynamic) as source, zipfile.ZipFile(folder / "hostile.pt2", "w") as target:
        for member in source.namelist():
            target.writestr(member, pickled_weight(member, source.read(member), folder / "mark"))
    x, y = np.zeros((6, 1, 8, 8), np.float32), np.zeros(6, np.int64)
    arrays: dict[str, dict[str, Any]] = {
        "no_x": {"y": y},
        "shape": {"x": np.zeros((6, 5), np.float32), "y": y},
        "lengths": {"x": x, "y": y[:4]},
        "labels": {"x": x, "y": y + 10},
        "negative": {"x": x, "y": y - 1},
        "halves": {"x": x, "y": y + 0.5},
        "one_hot": {"x": x, "y": np.eye(6)},
        "nan": {"x": x * np.nan, "y": y},
        "objects": {"x": np.array([Marked(folder / "mark")], dtype=object)},
        "none": {"x": x[:0], "y": y[:0]},
        "words": {"x": np.array(["a", "b"])},
        "scalar": {"x": np.float32(3)},
    }
    for name, members in arrays.items():
        np.savez(folder / f"{name}.npz", **members)
    with h5py.File(folder / "other.h5", "w") as file:
        file["layers/fc9/g_drifted"] = np.zeros((2, 4, 4), np.float32)
    with h5py.File(folder / "shape.h5", "w") as file:
        data = file.create_dataset("layers/fc1/g_drifted", data=np.zeros((2, 4, 4), np.float32))
        data.attrs["units"] = "S"
    with h5py.File(folder / "nothing.h5", "w"):
        pass
    (folder / "fails.py").write_text(
        "import torch\n"
        "class Odd(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.fc1 = torch.nn.Linear(64, 24)\n"
        "        self.fc2 = torch.nn.Linear(24, 16)\n        self.fc3 = torch.nn.Linear(16, 10)\n"
        "    def forward(self, x):\n        return self.missing(x)\n"
        "def make():\n    return Odd()\n"
        "def breaks():\n    return 1 / 0\n"
        "def number():\n    return 3\n"
    )
    for name in ("folder", "out.json"):
        (folder / name).mkdir()
    (folder / "file").write_text("a file")
    return folder


D = "deploy MODEL --chips 2 --sensitivity-chips 0"
S = "deploy STATE --chips 2 --data digits"
# id: (arguments, words of the error); BAD is a folder of bad files, the other capitals are good ones
CASES: dict[str, tuple[str, str]] = {
    # Models
    "model missing": ("deploy BAD/no.pt", "no.pt"),
    "model is a folder": ("deploy BAD/folder", "directory"),
    "model is a device": ("deploy /dev/zero", "/dev/zero"),
    "model empty": ("deploy BAD/empty.pt", "is empty"),
    "model garbage": ("deploy BAD/garbage.pt", "garbage.pt"),
    "model text": ("deploy BAD/text.pt", "text file"),
    "model truncated": ("deploy BAD/truncated.pt", "truncated"),
    "model without its last byte": ("deploy BAD/almost.pt", "almost.pt"),
    "archive truncated": ("deploy BAD/truncated.pt2", "truncated"),
    "archive damaged": ("deploy BAD/flipped.pt2", "flipped.pt2"),
    "archive hostile": ("deploy BAD/hostile.pt2", "hostile.pt2"),
    "model in Git LFS": ("deploy BAD/lfs.pt", "Git LFS"),
    "model hostile": ("deploy BAD/hostile.pt", "--trust-pickle"),
    "model pickled": ("deploy PICKLE --data digits", "--trust-pickle"),
    "plain pickle": ("deploy BAD/plain.pkl", "plain.pkl"),
    "model is a list": ("deploy BAD/list.pt", "list"),
    "model without weights": ("deploy BAD/nothing.pt", "empty table"),
    "model is a chip file": ("deploy CHIP", "HDF5"),
    "state_dict without arch": ("deploy STATE", "--arch"),
    "arch unknown": (f"{S} --arch mpl", "mpl"),
    "arch of another network": (f"{S} --arch lenet5", "lenet5"),
    "arch with a class that is not there": (f"{S} --arch json:nothing", "nothing"),
    "arch with a module that is not there": (f"{S} --arch no_such_module:make", "no_such_module"),
    "arch arguments no JSON": (f"{S} --arch mlp --arch-arguments {{hidden", "JSON"),
    "arch arguments no object": (f"{S} --arch mlp --arch-arguments [3]", "object"),
    "arch arguments unknown": (f'{S} --arch mlp --arch-arguments {{"layers":3}}', "layers"),
    "arch arguments of another size": (f'{S} --arch mlp --arch-arguments {{"classes":3}}', "fc3"),
    "arch factory fails": (f"{S} --arch fails:breaks", "fails:breaks"),
    "arch factory of no module": (f"{S} --arch fails:number", "fails:number"),
    "arch forward fails": (f"{S} --arch fails:make", "missing"),
    "arch for a checkpoint": (f"{D} --arch mlp", "--arch"),
    "arch for an archive": ("deploy ARCHIVE --arch mlp", "--arch"),
    "state_dict of another network": ("deploy BAD/other.pt --arch mlp", "other.pt"),
    "weight NaN": ("deploy BAD/nan.pt --arch mlp --data digits", "fc2.weight"),
    "weight infinite": ("deploy BAD/infinite.pt --arch mlp --data digits", "fc2.weight"),
    "export of no model": ("export BAD/garbage.pt BAD/out.h5", "garbage.pt"),
    "info on nothing": ("info BAD/no.pt", "no.pt"),
    "info on garbage": ("info BAD/garbage.pt", "garbage.pt"),
    "info on a damaged chip": ("info BAD/garbage.h5", "damaged"),
    "info with arguments no JSON": ("info STATE --arch mlp --arch-arguments {", "JSON"),
    # Designs
    "sigma negative": (f"{D} --sigma -0.1", "sigma=-0.1"),
    "sigma NaN": (f"{D} --sigma nan", "sigma=nan"),
    "sigma infinite": (f"{D} --sigma inf", "sigma=inf"),
    "sigma a word": (f"{D} --sigma much", "much"),
    "g_max below g_min": (f"{D} --g-min 1e-4 --g-max 1e-5", "g_max"),
    "g_max equal to g_min": (f"{D} --g-min 1e-4 --g-max 1e-4", "g_max"),
    "g_min negative": (f"{D} --g-min -1e-6", "g_min"),
    "levels 1": (f"{D} --levels 1", "levels=1"),
    "copies 0": (f"{D} --copies 0", "copies=0"),
    "clip beyond 100": (f"{D} --clip 101", "clip=101"),
    "stuck more than always": (f"{D} --stuck-off 0.7 --stuck-on 0.7", "off=0.7 and on=0.7"),
    "programming negative": (f"{D} --programming-sigma -1", "sigma=-1"),
    "programming twice": (f"{D} --programming-sigma 0.1 --programming constant:sigma=0.1", "both"),
    "time without a law that has one": (f"{D} --time 10", "time"),
    "time negative": (f"{D} --drift retention:nu=0.1,time=10 --time -3", "time"),
    "drift unknown": (f"{D} --drift lognromal:sigma=1", "did you mean"),
    "drift without its number": (f"{D} --drift gamma", "sigma"),
    "drift with another key": (f"{D} --drift gamma:sgima=3", "sgima"),
    "drift twice": (f"{D} --drift gamma:sigma=0.2 --sigma 0.3", "both"),
    "mapping unknown": (f"{D} --mapping offst", "did you mean"),
    "tile a word": (f"{D} --tile big", "--tile 'big'"),
    "tile 0": (f"{D} --tile 0x128", "tile"),
    "tile negative": (f"{D} --tile -4x128", "tile"),
    "tile of three": (f"{D} --tile 8x8x8", "--tile"),
    "bias unknown": (f"{D} --bias analog", "analog"),
    "preset unknown": (f"{D} --preset bayesfit", "did you mean 'bayesft'"),
    "presets NAME unknown": ("presets reram_wan2023", "did you mean"),
    "preset and hardware": (f"{D} --preset ideal --hardware BAD/empty.toml", "give one"),
    "hardware missing": (f"{D} --hardware BAD/no.toml", "no.toml"),
    "hardware of another kind": (f"{D} --hardware BAD/text.pt", ".toml or .json"),
    "hardware broken": (f"{D} --hardware BAD/broken.toml", "TOML"),
    "hardware with an unknown key": (f"{D} --hardware BAD/unknown.toml", "drift.sigma"),
    "hardware with an impossible value": (f"{D} --hardware BAD/negative.toml", "drift.sigma=-0.5"),
    "hardware JSON with an unknown key": (f"{D} --hardware BAD/unknown.json", "tile"),
    "hardware JSON with NaN": (f"{D} --hardware BAD/nan.json", "NaN"),
    "hardware binary": (f"{D} --hardware BAD/binary.toml", "UTF-8"),
    "hardware too long": (f"{D} --hardware BAD/huge.toml", "bytes"),
    "hardware a folder": (f"{D} --hardware BAD/folder", "folder"),
    # Data
    "data missing": (f"{D} --data BAD/no.npz", "no.npz"),
    "data unknown": (f"{D} --data digit", "did you mean digits"),
    "data dir missing": (f"{D} --data mnist --data-dir BAD/nowhere", "nowhere"),
    "data dir empty": (f"{D} --data mnist --data-dir BAD/folder", "folder"),
    "data empty": (f"{D} --data BAD/empty.npz", "empty.npz"),
    "data garbage": (f"{D} --data BAD/garbage.npz", "garbage.npz"),
    "data truncated": (f"{D} --data BAD/truncated.npz", "truncated.npz"),
    "data without x": (f"{D} --data BAD/no_x.npz", "no array x"),
    "data of another shape": (f"{D} --data BAD/shape.npz", "(6, 5)"),
    "data with fewer labels": (f"{D} --data BAD/lengths.npz", "labels have shape (6,)"),
    "labels beyond outputs": (
        f"{D} --data BAD/labels.npz",
        "labels go up to 10 but the model has 10 outputs",
    ),
    "labels negative": (f"{D} --data BAD/negative.npz", "-1"),
    "labels fractional": (f"{D} --data BAD/halves.npz", "0.5"),
    "labels one-hot": (f"{D} --data BAD/one_hot.npz", "one class number per example"),
    "data NaN": (f"{D} --data BAD/nan.npz", "NaN"),
    "data pickled": (f"{D} --data BAD/objects.npz", "Python objects"),
    "data without examples": (f"{D} --data BAD/none.npz", "at least one example"),
    "data words": (f"{D} --data BAD/words.npz", "numbers are needed"),
    "data a number": (f"{D} --data BAD/scalar.npz", "(n, ...)"),
    "data and input shape": (f"{D} --data LABELLED --input-shape 1,8,8", "give one"),
    "input shape a word": (f"{D} --input-shape big", "--input-shape 'big'"),
    "input shape 0": (f"{D} --input-shape 0,8", "--input-shape"),
    "input shape negative": (f"{D} --input-shape -1,8", "--input-shape"),
    "input shape of another model": (f"{D} --input-shape 3,32,32", "cannot take inputs"),
    "input shape beyond memory": (f"{D} --input-shape 1000000,1000000,1000", "memory"),
    "images 0": (f"{D} --images 0", "images=0"),
    "images negative": (f"{D} --images -5", "images=-5"),
    # What to do
    "chips 0": (f"{D} --chips 0", "--chips '0'"),
    "chips negative": (f"{D} --chips -1", "--chips '-1'"),
    "chips empty": (f"{D} --chips 5:5", "no chip"),
    "chips backwards": (f"{D} --chips 5:2", "no chip"),
    "chips from below 0": (f"{D} --chips -3:2", "--chips '-3:2'"),
    "chips a word": (f"{D} --chips many", "--chips 'many'"),
    "chips a fraction": (f"{D} --chips 2.5", "--chips '2.5'"),
    "chips beyond their numbers": (f"{D} --chips 4294967290:4294967300", "4294967296"),
    "chips without end": (f"{D} --chips 99999999999999", "at most"),
    "chip negative": ("export MODEL BAD/out.h5 --chip -1", "chip=-1"),
    "seed negative": (f"{D} --seed -1", "seed=-1"),
    "seed too large": (f"{D} --seed 18446744073709551616", "2**64"),
    "threads 0": (f"{D} --threads 0", "threads=0"),
    "threads negative": (f"{D} --threads -2", "threads=-2"),
    "sensitivity chips negative": (f"{D} --sensitivity-chips -1", "sensitivity_chips=-1"),
    "threshold NaN": (f"{D} --threshold nan", "threshold=nan"),
    "threshold in per cent": (f"{D} --threshold 90", "0.9 for 90 %"),
    "only an unknown layer": (f"{D} --only fc9", "fc1, fc2, fc3"),
    "skip an unknown layer": (f"{D} --skip conv*", "conv*"),
    "skip all": (f"{D} --skip *", "no layer to map"),
    "device unknown": (f"{D} --device tpu", "tpu"),
    "device of another kind": (f"{D} --device meta", "meta"),
    "option unknown": (f"{D} --sgima 0.6", "sgima"),
    "command unknown": ("deplyo MODEL", "deplyo"),
    "argument missing": ("export MODEL", "OUTPUT"),
    # Chip files
    "chip file missing": ("deploy MODEL --conductances BAD/no.h5", "no.h5"),
    "chip file empty": ("deploy MODEL --conductances BAD/empty.h5", "is empty"),
    "chip file garbage": ("deploy MODEL --conductances BAD/garbage.h5", "damaged"),
    "chip file is a model": ("deploy MODEL --conductances MODEL", "no HDF5"),
    "chip file without layers": ("deploy MODEL --conductances BAD/nothing.h5", "/layers"),
    "chip file of another model": ("deploy MODEL --conductances BAD/other.h5", "fc9"),
    "chip file of another shape": ("deploy MODEL --conductances BAD/shape.h5", "fc1"),
    "chip file truncated": ("deploy MODEL --conductances BAD/truncated.h5", "truncated.h5"),
    "chip file with a flipped bit": ("deploy MODEL --conductances BAD/flipped.h5", "flipped.h5"),
    # Outputs
    "json into a folder that is not there": (f"{D} --json BAD/nowhere/r.json", "no directory"),
    "json onto a folder": (f"{D} --json BAD/folder", "is a directory"),
    "json below a file": (f"{D} --json BAD/file/r.json", "no directory"),
    "json where nobody can write": (f"{D} --json /proc/r.json", "/proc/r.json"),
    "json with too long a name": (f"{D} --json BAD/{'r' * 300}.json", "too long"),
    "json without a name": (f"{D} --json ''", "'' is a directory"),
    "json onto the model": (f"{D} --json MODEL", "is an input"),
    "maps onto the hardware": (f"{D} --hardware BAD/empty.toml --maps BAD/empty.toml", "is an input"),
    "two outputs in one file": (f"{D} --json BAD/one.png --plot BAD/one.png", "another output"),
    "plot of an unknown kind": (f"{D} --plot BAD/plot.jpg", ".png, .pdf, .svg"),
    "plot without a kind": (f"{D} --plot BAD/plot", ".png, .pdf, .svg"),
    "plot onto a folder": (f"{D} --plot BAD/folder", "is a directory"),
    "maps into a folder that is not there": (f"{D} --maps BAD/nowhere/r.h5", "no directory"),
    "maps onto a device": (f"{D} --maps /dev/null", "no regular file"),
    "export onto the model": ("export MODEL MODEL", "is an input"),
    "export onto a folder": ("export MODEL BAD/folder", "is a directory"),
    "export into a folder that is not there": ("export MODEL BAD/nowhere/chip.h5", "no directory"),
}


@pytest.fixture(scope="session")
def chip_file(files: Files, bad: Path) -> Path:
    from crossbar_sim.cli import run

    path = files.folder / "chip.h5"
    assert run(["export", str(files.checkpoint), str(path), "--sigma", "0.6"]) == 0
    content = path.read_bytes()
    (bad / "truncated.h5").write_bytes(content[: len(content) * 2 // 3])
    with h5py.File(path) as file:
        chunk = file["layers/fc1/g_drifted"].id.get_chunk_info(0)
        middle = chunk.byte_offset + chunk.size // 2
    (bad / "flipped.h5").write_bytes(content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :])
    return path


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line(
    command: Command,
    files: Files,
    bad: Path,
    chip_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
):
    line, why = CASES[name]
    monkeypatch.syspath_prepend(str(bad))
    monkeypatch.delenv("CROSSBAR_SIM_DATA", raising=False)
    good = {
        "MODEL": files.checkpoint, "STATE": files.state_dict, "PICKLE": files.pickled,
        "ARCHIVE": files.dynamic,
        "LABELLED": files.labelled, "CHIP": chip_file, "BAD": bad,
    }  # fmt: skip
    arguments = ["" if word == "''" else word for word in line.split()]
    for key, path in good.items():
        arguments = [
            str(path) + word.removeprefix(key) if word.partition("/")[0] == key else word
            for word in arguments
        ]
    # Outputs that are not the bad input exist already: they must keep their bytes.
    kept = {
        flag: tmp_path / f"kept{suffix}"
        for flag, suffix in (("--json", ".json"), ("--plot", ".png"), ("--maps", ".h5"))
    }
    for path in kept.values():
        path.write_text("as it was")
    if arguments[0] == "deploy":
        for flag, path in kept.items():
            if flag not in arguments and not (flag == "--maps" and "--conductances" in arguments):
                arguments += [flag, str(path)]
    before = {path: path.read_bytes() for path in (*bad.iterdir(), *files.folder.iterdir()) if path.is_file()}
    result = command(*arguments)
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("error: ")
    assert why in lines[0]
    assert len(lines[0]) < 700
    assert "Traceback" not in result.err
    assert result.code == 2
    assert result.out == ""
    assert not (bad / "mark").exists()
    assert [path.read_text() for path in kept.values()] == ["as it was"] * 3
    after = {path: path.read_bytes() for path in (*bad.iterdir(), *files.folder.iterdir()) if path.is_file()}
    assert after == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept.h5", "kept.json", "kept.png"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_no_gpu(command: Command, files: Files, device: str):
    result = command("deploy", files.checkpoint, "--device", device)
    assert result.code == 2
    assert result.out == ""
    assert result.err.count("\n") == 1
    assert "no GPU" in result.err


def test_the_mark_would_be_seen(bad: Path, tmp_path: Path):
    """The negative control: what the hostile files carry does run where pickles are trusted."""
    torch.save({"x": Marked(tmp_path / "mark")}, tmp_path / "hostile.pt")
    torch.load(tmp_path / "hostile.pt", weights_only=False)
    assert (tmp_path / "mark").exists()


def process(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "crossbar_sim", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "limit"),
    [
        (("deploy", "MODEL", "--chips", "40", "--json", "OUT"), 1000),
        (("deploy", "MODEL", "--chips", "2", "--maps", "OUT"), 9000),
        (("deploy", "MODEL", "--chips", "2", "--plot", "OUT"), 9000),
    ],
    ids=["json", "maps", "plot"],
)
def test_a_full_disk(files: Files, tmp_path: Path, arguments: tuple[str, ...], limit: int):
    out = tmp_path / ("out.png" if "--plot" in arguments else "out")
    out.write_text("as it was")

    def full() -> None:
        signal.signal(
            signal.SIGXFSZ, signal.SIG_IGN
        )  # so that writing beyond it is an error, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    words = {"MODEL": files.checkpoint, "OUT": out}
    # Compiled kernels and fonts go to caches, which the limit would keep from being written too.
    run = process(*(words.get(word, word) for word in arguments), preexec_fn=full)
    written, error = run.communicate(timeout=120)
    lines = error.splitlines()
    assert run.returncode == 2, error
    assert len(lines) == 1
    assert lines[0].startswith(f"error: cannot write {out}: File too large")
    assert "Traceback" not in written
    assert out.read_text() == "as it was"
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [("deploy", "MODEL", "--chips", "2", "--json", "-"), ("presets",)])
def test_standard_output_onto_a_full_disk(files: Files, arguments: tuple[str, ...]):
    words = [word.replace("MODEL", str(files.checkpoint)) for word in arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "crossbar_sim", *words],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error:")
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_killed_at_any_moment_existing_outputs_are_whole(files: Files, tmp_path: Path):
    good = {name: tmp_path / name for name in ("r.json", "r.h5")}
    arguments = ["deploy", files.checkpoint, "--sigma", "0.6", "--chips", "3", "--sensitivity-chips", "0"]
    arguments += ["--json", good["r.json"], "--maps", good["r.h5"]]
    began = time.monotonic()
    first = process(*arguments)
    assert first.wait(120) == 0
    whole = time.monotonic() - began
    contents = {name: path.read_bytes() for name, path in good.items()}
    old = {name: content + b" " * 10 for name, content in contents.items()}  # seen to be the old ones
    generator, ended = random.Random(1), set()
    for share in (0.6, 0.9, 0.95, 1.0):
        for name, path in good.items():
            path.write_bytes(old[name])
        run = process(*arguments)
        time.sleep(whole * (share + 0.05 * generator.random()))
        run.kill()
        ended.add(run.wait(60))
        for name, path in good.items():
            assert path.read_bytes() in (old[name], contents[name]), (name, share)
        others = {p.name for p in tmp_path.iterdir()} - {*good}
        assert all(name.startswith(".") for name in others)
    assert -signal.SIGKILL in ended


def test_interrupted_it_says_so_in_one_line(files: Files, tmp_path: Path):
    out = tmp_path / "r.json"
    out.write_text("as it was")
    # a shell starts what it puts in the background with SIGINT ignored, and children inherit that
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    run = process("deploy", files.checkpoint, "--chips", "500000", "--json", out, **heard)
    try:
        time.sleep(5)
        assert run.poll() is None
        run.send_signal(signal.SIGINT)
        written, error = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == 130
    assert error.split() == ["stopped"]
    assert written == ""
    assert out.read_text() == "as it was"
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    "name",
    [
        "with space",
        "nëw µ",
        "two\nlines",
        "-dash",
        "[red]x[bold]",
        "q'uote\"",
        b"\xff".decode(errors="surrogateescape"),
    ],
)
def test_odd_names(
    command: Command, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.chdir(tmp_path)
    Path(f"{name}.pt").write_bytes(files.checkpoint.read_bytes())
    outputs = ("--json", f"./{name}.json", "--plot", f"./{name}.png", "--maps", f"./{name}.h5")
    result = command("deploy", *outputs, "--chips", 2, "--sensitivity-chips", 0, "--", f"{name}.pt")
    assert result.code == 0, result.err
    assert result.err == ""
    assert sorted(p.suffix for p in Path().iterdir()) == [".h5", ".json", ".png", ".pt"]
    assert json.loads(Path(f"{name}.json").read_text())["model"]["sha256"]
    again = command("deploy", f"./{name}.pt", "--conductances", f"./{name}.h5", "--json", "-")
    assert again.code == 0, again.err
    assert command("info", "--", f"{name}.pt").code == command("info", f"./{name}.h5").code == 0
    missing = command("deploy", "--", f"{name}{name}.pt")
    assert missing.code == 2
    assert len(missing.err.splitlines()) == 1
    assert os.listdir() != []
