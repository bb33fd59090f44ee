"""What must hold on a GPU: `pytest -m gpu`. The same bodies run on the CPU by operations on tensors (torch:cpu)."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.cli_runs import Files, Result
from torch import Tensor, nn

from crossbar_sim import CrossbarWarning, Key, LogNormalDrift
from crossbar_sim.baselines.drift_aware import DriftAware
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.data import Development, Split, Splits
from crossbar_sim.nn import Augment, Training, seeded
from crossbar_sim.nn.device import Device, release_memory
from crossbar_sim.nn.networks import build
from crossbar_sim.nn.tensor_cells import laws
from crossbar_sim.robustness import robustness

ON_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU on this machine"),
]
CUDA = pytest.param("cuda", marks=ON_GPU)
EVERYWHERE = pytest.mark.parametrize("device", ["torch:cpu", CUDA])

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("device", [CUDA])  # on the CPU tests/benchmarks/test_gpu_benchmark.py runs them
@pytest.mark.parametrize(
    "name", ["words", "laws", "tiles", "scores-mlp", "scores-lenet5", "scores-resnet-18"]
)
def test_the_device_agrees_with_the_cpu(
    name: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu
    from slots import Place

    (part,) = [part for part in gpu.parts(tiny=False) if part.name == f"agree-{name}"]
    options = argparse.Namespace(device=device, tiny=True, data_dir=None)
    part.work(Place(tmp_path, options, time.monotonic() + 600))
    for module in ("gpu", "slots"):
        sys.modules.pop(module)


@EVERYWHERE
def test_ten_million_cells_drift_as_on_the_cpu(device: str) -> None:
    n = 10_000_000 if device == "cuda" else 100_000
    g, law, stream = torch.linspace(1e-6, 1e-4, n), LogNormalDrift(0.6), Stream.of(Key(4).fold("drift"), 2)
    theirs = torch.empty_like(g)
    law.apply_plane(g.numpy(), theirs.numpy(), stream)
    ours = laws.drift(law, g.to(Device.of(device).where), stream).cpu()
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=0)


@EVERYWHERE
@pytest.mark.parametrize("preset", ["bayesft", "isaac"])
def test_deploy_gives_the_scores_of_the_cpu(
    preset: str, device: str, command: Callable[..., Result], files: Files
) -> None:
    scores = []
    for where in (device, "cpu"):
        done = command(
            "deploy", files.checkpoint, "--data", "digits", "--preset", preset, "--sigma", "0.5", "--chips", "3",
            "--images", "100", "--sensitivity-chips", "0", "--device", where, "--json", "-",
        )  # fmt: skip
        assert done.code == 0, done.err
        scores.append(done.report["drifted"]["accuracy"]["per_chip"])
    assert scores[0] == pytest.approx(scores[1], abs=0.011)  # an image of 100


@EVERYWHERE
def test_sweep_and_training_run_on_the_device(
    device: str, command: Callable[..., Result], tmp_path: Path
) -> None:
    model = tmp_path / "model.pt"
    done = command(
        "train", "--network", "mlp", "--network-arguments", '{"hidden": [8], "inputs": 64}',
        "--data", "digits", "--epochs", "2",
        "--device", device, "-o", model,
    )  # fmt: skip
    assert done.code == 0, done.err
    done = command(
        "sweep",
        model,
        "--data",
        "digits",
        "--sigma",
        "0,0.5",
        "--chips",
        "2",
        "--device",
        device,
        "--json",
        "-",
    )
    assert done.code == 0, done.err


@EVERYWHERE
def test_the_same_seed_trains_the_same_weights(device: str) -> None:
    with seeded(Key(0)):
        data = Split(torch.rand(60, 3, 16, 16), torch.arange(60) % 10)
    training = Training(
        2, 20, 1e-2, precision="bfloat16", channels_last=True, augment=Augment(2, True), device=device
    )
    method = DriftAware(0.5, chips=2, training=training, temperature=False)
    first, second = (
        method.fit(
            lambda: build("resnet-18", width=4, normalisation="batch"), Development(data, data), Key(1)
        ).model
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


class Hungry(nn.Module):
    """A network whose forward has memory for some images at a time only."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.layer = device, nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        if self.device == "torch:cpu" and len(x) > 64:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        flat = x.flatten(1)
        if self.device == "cuda":
            flat = flat.repeat(1, 100_000)[:, :64]  # 26 MB an image
        return self.layer(flat)


@EVERYWHERE
def test_a_lack_of_memory_makes_blocks_smaller(device: str, digits: Splits) -> None:
    assert digits.test.y is not None
    few = digits.test.x[:200], digits.test.y[:200]
    with seeded(Key(0)):
        model = Hungry(device)
    if device == "cuda":
        torch.cuda.set_per_process_memory_fraction(2**31 / torch.cuda.get_device_properties(0).total_memory)
    try:
        with pytest.warns(CrossbarWarning, match="the memory is full with 200 examples at a time"):
            (ours,) = robustness({"it": model}, few, sigmas=[0.5], chips=2, device=device).curve("it")
    finally:
        if device == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)
            release_memory(torch.device("cuda"))
    model.device = "cpu"
    (theirs,) = robustness({"it": model}, few, sigmas=[0.5], chips=2, device="cpu").curve("it")
    assert ours.values == pytest.approx(theirs.values, abs=0.0051)  # an image of 200
