"""Training on a device, where there is none: the same chips as on the CPU, and no step that mixes devices."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from crossbar_sim import Hardware, Key, ProgrammingNoise
from crossbar_sim.baselines import drifted_steps
from crossbar_sim.baselines.drift_aware import DriftAware
from crossbar_sim.baselines.drifted_steps import TrainingChips
from crossbar_sim.data import Development, Split, Splits
from crossbar_sim.nn import Augment, Training, seeded, to_analog
from crossbar_sim.nn import device as devices
from crossbar_sim.nn.networks import build
from crossbar_sim.nn.training import loop
from crossbar_sim.nn.training.losses import LOSSES, PLAIN, TaskLoss

NOISY = Hardware.preset("bayesft", programming=ProgrammingNoise(0.03))


@pytest.mark.parametrize("copies", [1, 3])
def test_chips_drawn_by_tensors_are_those_of_the_kernels(copies: int) -> None:
    model = nn.Linear(300, 20)
    drawn = []
    for tensors in (False, True):
        chips = TrainingChips(model, 2, Key(3), copies, 1.5, tensors)
        with seeded(Key(1)):
            chips.draw([0.5, 1.0])
        drawn.append(chips.all)
    assert torch.allclose(*drawn, rtol=2e-6)
    assert drawn[0].std() > 0.3


@pytest.mark.parametrize("hardware", [None, NOISY], ids=["factors", "arrays"])
def test_a_training_on_tensors_is_that_of_the_kernels(digits: Splits, hardware: Hardware | None) -> None:
    assert digits.train is not None
    few = Development(*[Split(digits.train.x[:60], digits.train.y[:60])] * 2)  # type: ignore[index]
    found = []
    for device in ("cpu", "torch:cpu"):
        training = Training(1, 20, 1e-2, optimiser="sgd", device=device)
        method = DriftAware(0.5, chips=2, training=training, hardware=hardware, temperature=False)
        done = method.fit(lambda: build("mlp", inputs=64, hidden=(8,)), few, Key(0))
        found.append(torch.cat([p.detach().flatten() for p in done.model.parameters()]))
    with seeded(Key(0).fold("initialisation")):
        before = torch.cat([p.detach().flatten() for p in build("mlp", inputs=64, hidden=(8,)).parameters()])
    assert torch.allclose(*found, atol=1e-5)
    assert not torch.allclose(found[0], before, atol=1e-3)


def test_a_gpu_trains_by_repeatable_algorithms_in_float32() -> None:
    def flags() -> tuple[bool, ...]:
        cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
        return (
            torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
            cudnn.deterministic, not cudnn.benchmark, not cudnn.allow_tf32, not products.allow_tf32,
        )  # fmt: skip

    before = flags()
    with suppress(KeyError), loop._repeatable(torch.device("cuda")):
        assert all(flags())
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"]
        raise KeyError
    assert flags() == before
    with loop._repeatable(torch.device("cpu")):
        assert flags() == before
    torch.set_float32_matmul_precision("high")  # whoever asks torch for TF32 gets it
    try:
        with loop._repeatable(torch.device("cuda")):
            assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_training_rounds_to_tf32_where_its_device_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "count", lambda kind: 1)
    for name, precision in (("cuda", "highest"), ("cuda+tf32", "high")):
        with loop._repeatable(torch.device("cuda"), name):
            assert torch.get_float32_matmul_precision() == precision
            assert torch.backends.cudnn.allow_tf32 == (precision == "high")
    assert torch.get_float32_matmul_precision() == "highest"


def test_statistics_over_chips_are_exact_to_rounding_too(monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[bool] = []

    @contextmanager
    def arithmetic(device: devices.Device) -> Iterator[None]:
        inside.append(True)
        yield
        inside.append(False)

    monkeypatch.setattr(devices.Device, "arithmetic", arithmetic)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    monkeypatch.setattr(drifted_steps, "call", lambda module, x: inside.append(inside[-1]) or module(x))
    method = DriftAware(0.5, chips=2, training=Training(1, 8, 1e-3), statistics="population")
    method._population(model, torch.rand(16, 3), Key(0))
    assert all(inside[:-1])


def test_a_training_goes_on_with_fewer_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[Tensor] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", states.extend)
    loop._set_generators([torch.get_rng_state(), torch.zeros(1), torch.ones(1)])
    assert states == [torch.zeros(1)]


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What torch asks of a driver, answered without one; numbers that are drawn on the CPU; autograd's engine off."""

    def backward(loss: Tensor) -> None:
        assert loss.device.type == "cuda"
        assert loss.requires_grad
        for p in TRAINED[-1].parameters():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad + torch.zeros_like(p)

    monkeypatch.setattr(drifted_steps, "numbers", lambda n: [3] * n)
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    # the first forward, which finds the layers on arrays, compares values
    monkeypatch.setattr(
        drifted_steps,
        "as_deployed",
        lambda model, hardware, x, seed: (to_analog(model, hardware, seed), None),
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**34, 2**35))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    yield
    TRAINED.clear()


TRAINED: list[nn.Module] = []


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor", "ignore:CUDA is not available")
@pytest.mark.parametrize(
    ("network", "shape"),
    [
        ({"name": "mlp", "inputs": 64, "hidden": (8,), "dropout": 0.1}, (1, 8, 8)),
        ({"name": "lenet5"}, (1, 28, 28)),
        ({"name": "resnet-18", "width": 4, "normalisation": "batch"}, (3, 32, 32)),
    ],
    ids=lambda given: given["name"] if isinstance(given, dict) else "",
)
@pytest.mark.parametrize("kind", ["erm", "factors"])
def test_a_step_mixes_no_devices_and_reads_nothing_back(
    network: dict[str, object], shape: tuple[int, ...], kind: str, no_gpu: None
) -> None:
    """On tensors without contents that claim to lie on a GPU: torch refuses any operation that mixes devices."""
    training = Training(
        1, 8, 1e-3, precision="bfloat16", channels_last=len(shape) == 3 and shape[0] == 3,
        augment=Augment(2, True), clip=0.1,
    )  # fmt: skip
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            TRAINED.append(model := build(**network))  # type: ignore[arg-type]
            x, y = torch.empty(16, *shape), torch.zeros(16, dtype=torch.int64)
        step = loop._of_loss(PLAIN)
        if kind != "erm":
            method = DriftAware(0.5, chips=2, training=training, temperature=False)
            step = method.step(model, Key(0))
        run = loop._Run(model, training, step, Key(0), x, y, PLAIN)
        taken = []
        moved = run.optimiser.step
        run.optimiser.step = lambda done: taken.append(moved(done))  # type: ignore[method-assign]
        with pytest.raises(DataDependentOutputException):  # of the epoch's loss, and of nothing before
            run.epoch(loop.State())
        assert len(taken) == run.per_epoch == 2
        assert all(p.device.type == "cuda" and p.grad is not None for p in model.parameters())


def test_backward_through_several_chips_stays_on_the_device() -> None:
    with FakeTensorMode(), torch.device("cuda"):
        saved = type("Context", (), {})()
        out = drifted_steps._Drifted.forward(saved, torch.empty(5, 4), torch.empty(3, 5, 4))
        gradient, _ = drifted_steps._Drifted.backward(saved, torch.empty_like(out))
    assert gradient.shape == (5, 4)
    assert gradient.device.type == "cuda"


def test_a_score_is_read_back_once() -> None:
    with FakeTensorMode(), torch.device("cuda"):
        model, x, y = nn.Linear(4, 4), torch.empty(3000, 4), torch.zeros(3000, dtype=torch.int64)
        calls = []
        model.register_forward_hook(lambda *_: calls.append(1))
        for task, targets in ((PLAIN, y), (TaskLoss(LOSSES["mse"], None, error=True), x)):
            with pytest.raises(DataDependentOutputException):
                task.score(model, x, targets)
    assert len(calls) == 2 * 3  # blocks, before the first question
