"""Bad files beside the good ones, made once per session."""

from pathlib import Path

import h5py
import pytest
from helpers.bad_files import write_bad_files
from helpers.cli_runs import Files
from torch import nn

from crossbar_sim.cli import run


@pytest.fixture(scope="session")
def bad(files: Files, network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bad files."""
    folder = tmp_path_factory.mktemp("bad")
    write_bad_files(folder, files, network)
    return folder


@pytest.fixture(scope="session")
def chip_file(files: Files, bad: Path) -> Path:
    """A good one; a truncated one and one with a flipped bit go to the bad files."""
    path = files.folder / "chip.h5"
    assert run(["export", str(files.checkpoint), str(path), "--sigma", "0.6"]) == 0
    content = path.read_bytes()
    (bad / "truncated.h5").write_bytes(content[: len(content) * 2 // 3])
    with h5py.File(path) as file:
        chunk = file["layers/fc1/g_drifted"].id.get_chunk_info(0)
        middle = chunk.byte_offset + chunk.size // 2
    (bad / "flipped.h5").write_bytes(content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :])
    return path
