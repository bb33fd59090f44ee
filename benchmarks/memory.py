"""Claim: deploying holds at most one extra copy of the weights beyond the model; export streams; chips are free.

    python benchmarks/memory.py [results.json]

A model of two linear layers of 64 M and 36 M weights (400 MB). Peak resident memory of a process that has the model
only, that deploys it, and that exports a chip, in multiples of the weights. And of sweeps of the 784-192-32-10 MLP
over 10 chips and over 1000, at one sigma and at ten: all images of 500, and 100 drawn from them.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from timing import processor, save

SCRIPT = """
import resource, sys
import torch
from torch import nn
from crossbar_sim import Hardware
from crossbar_sim.nn import to_analog
from crossbar_sim.robustness import deploy
from crossbar_sim.store import export_chip
job = sys.argv[1]
warm = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval()  # imports, kernels, allocators
hardware = Hardware.preset("bayesft", sigma=0.6)
deploy(warm, torch.zeros(4, 64), None, hardware, chips=[0])
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with torch.no_grad():
    model = nn.Sequential(nn.Linear(8000, 8000), nn.ReLU(), nn.Linear(8000, 4500)).eval()
if job == "deploy":
    deploy(model, torch.ones(8, 8000), None, hardware, chips=[0, 1, 2], sensitivity_chips=1)
if job == "export":
    export_chip(to_analog(model, hardware), sys.argv[2], hardware=hardware, seed=0, chip=0, model_sha256="", version="")
print(base, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
SWEEP = """
import resource, sys
import torch
from crossbar_sim.nn.networks import build
from crossbar_sim.robustness import robustness
chips, sigmas, drawn = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "drawn"
network = build("mlp", inputs=784, hidden=(192, 32), classes=10).eval()
x, y = torch.rand(500, 1, 28, 28), torch.arange(500) % 10
if drawn:
    from crossbar_sim import Hardware
    from crossbar_sim.robustness.evaluator import Job, Subject
    from crossbar_sim.robustness.score import Reference
    evaluator = Subject(network, Hardware.preset("bayesft"), Reference.of(network, x, y), "accuracy", 0).evaluator
    for i in range(sigmas):
        evaluator.measure(Job(0.5 + i / 10, tuple(range(chips)), 100))
else:
    robustness({"mlp": network}, (x, y), sigmas=[0.5 + i / 10 for i in range(sigmas)], chips=chips)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
WEIGHTS = 4 * (8000 * 8000 + 8000 * 4500) / 1024  # KiB


def main() -> None:
    rows = {}
    for job in ("model alone", "deploy", "export"):
        target = str(Path(tempfile.gettempdir()) / "crossbar-sim-memory.h5")
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT, job, target], capture_output=True, text=True, check=True
        )
        base, peak = map(int, run.stdout.split())
        rows[job] = {
            "MiB above start": (peak - base) / 1024,
            "copies of the weights": (peak - base) / WEIGHTS,
        }
        print(f"{job:<12} {(peak - base) / 1024:8.0f} MiB above start, {(peak - base) / WEIGHTS:.2f} copies")
        Path(target).unlink(missing_ok=True)
    save([{"title": "peak memory, 100 M weights", "processor": processor(), "rows": rows}, sweeps()])


def sweeps() -> dict[str, object]:
    rows = {}
    for how in ("all", "drawn"):
        for chips, sigmas in ((10, 1), (1000, 1), (10, 10), (1000, 10)):
            arguments = [sys.executable, "-c", SWEEP, str(chips), str(sigmas), how]
            run = subprocess.run(arguments, capture_output=True, text=True, check=True)
            name = f"{how} images, {chips} chips, {sigmas} sigmas"
            rows[name] = {"MiB": int(run.stdout) / 1024}
            print(f"{name:<40} {int(run.stdout) / 1024:8.0f} MiB peak")
    return {"title": "peak memory of a sweep", "processor": processor(), "rows": rows}


if __name__ == "__main__":
    main()
