"""The script of a GPU's first minutes, whole, where there is none."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks/gpu.py"


def test_every_part_runs_on_the_cpu(tmp_path: Path) -> None:
    call = [
        sys.executable,
        str(SCRIPT),
        "--limit",
        "600",
        "-o",
        str(tmp_path),
        "--device",
        "torch:cpu",
        "--tiny",
    ]
    done = subprocess.run(call, capture_output=True, text=True)
    found = json.loads((tmp_path / "report.json").read_text())
    assert done.returncode == 0, done.stdout
    assert {state["state"] for state in found.values()} == {"done"}, done.stdout
    assert len(found) == 14
    assert found["agree-words"]["result"]["different"] == 0
    assert found["sweep-resnet-18"]["result"]["evaluations"] == 3
    assert found["train-erm"]["result"]["epochs"] == 1
