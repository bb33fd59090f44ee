"""Files that are no good, each in its own way, and what would run if one were trusted."""

import io
import json
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import nn

from helpers.cli_runs import Files


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


def write_bad_files(folder: Path, files: Files, network: nn.Module) -> None:
    """The bad files, made of the good ones."""
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
        "dots.toml": b".".join([b"a"] * 20_000) + b" = 1\n",
        "deep.toml": b"drift = " + b"{a = " * 200 + b"1" + b"}" * 200,
        "deep.json": b'{"drift": ' + b"[" * 300 + b"]" * 300 + b"}",
        "experiment.toml": b'data = "digits"\n[train.a]\nnetwork = "mlp"\narguments.'
        + b".".join([b"a"] * 9_000)
        + b" = 1",
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
