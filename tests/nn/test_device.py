"""Where a model is computed: names of devices, models that are moved there and back, operations on tensors."""

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from crossbar_sim import deploy
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.errors import InputError
from crossbar_sim.nn import device as devices
from crossbar_sim.nn import evaluate, to_analog
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.device import CPU, Device, on_device
from crossbar_sim.nn.tensor_cells import fused, planes
from crossbar_sim.nn.tensor_cells.segments import Job
from crossbar_sim.nn.tensor_tiles.product import single_precision


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two GPUs of NVIDIA and none of other kinds."""
    monkeypatch.setattr(devices, "count", lambda kind: 2 if kind == "cuda" else 0)


@pytest.mark.parametrize(
    ("given", "where", "tensors", "name"),
    [
        ("cpu", "cpu", False, "cpu"),
        (None, "cpu", False, "cpu"),
        (torch.device("cpu"), "cpu", False, "cpu"),
        ("torch:cpu", "cpu", True, "torch:cpu"),
        ("cuda", "cuda:0", True, "cuda"),
        ("cuda:1", "cuda:1", True, "cuda:1"),
        ("cuda:1+tf32", "cuda:1", True, "cuda:1+tf32"),
        ("auto", "cuda:0", True, "cuda"),
        (torch.device("cuda", 1), "cuda:1", True, "cuda:1"),
    ],
)
def test_names(gpus: None, given: object, where: str, tensors: bool, name: str) -> None:
    found = Device.of(given)  # type: ignore[arg-type]
    assert (str(found.where), found.tensors, found.name) == (where, tensors, name)
    assert Device.of(found.name) == found


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("tpu", "--device tpu: expected cpu, cuda"),
        ("meta", "--device meta: expected cpu, cuda"),
        ("torch:cuda", "--device torch:cuda: expected cpu, cuda"),
        ("cuda:2", "--device cuda:2: torch sees 2 GPUs here, numbered from 0"),
        ("xpu", "--device xpu: torch sees no Intel GPU on this machine"),
        ("mps", "--device mps: torch sees no Apple GPU on this machine"),
        ("", "--device : expected"),
        ("cuda+fp8", r"--device cuda\+fp8: products are changed by \+tf32"),
        ("cpu+tf32", r"--device cpu\+tf32: products are changed by \+tf32 on a CUDA device"),
    ],
)
def test_a_device_that_is_not_there(gpus: None, given: str, line: str) -> None:
    with pytest.raises(InputError, match=line):
        Device.of(given, "--device")


def test_auto_is_the_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "count", lambda kind: 0)
    assert Device.of("auto") == CPU


@pytest.mark.parametrize("name", ["cuda", "cuda+tf32"])
def test_products_are_exact_unless_tf32_is_named(gpus: None, name: str) -> None:
    def state() -> tuple[bool, str]:
        return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()

    before, device = state(), Device.of(name)
    with device.arithmetic():
        assert state() == ((True, "high") if name == "cuda+tf32" else (False, "highest"))
        with devices.in_float32(device.where):  # of every evaluation
            assert state()[0] == (name == "cuda+tf32")
    assert state() == before


def test_a_model_comes_back() -> None:
    model = nn.Linear(3, 2)
    before = [p.clone() for p in model.parameters()]
    with on_device("torch:cpu", model) as where:
        assert where.tensors
    assert all(map(torch.equal, before, model.parameters()))
    with on_device(None, model) as where:
        assert where == CPU


def test_the_same_chips_by_operations_on_tensors() -> None:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4))
    x = torch.rand(300, 20, generator=generator)
    hardware = Hardware.preset("bayesft", sigma=0.5)
    scores = {}
    for device in ("cpu", "torch:cpu"):
        found = deploy(model, x, hardware=hardware, chips=3, metric="output_error", device=device)
        scores[device] = [score.output_error for score in found.scores]
    assert scores["torch:cpu"] == pytest.approx(scores["cpu"], rel=1e-5)
    assert scores["torch:cpu"] != scores["cpu"], "operations on tensors round otherwise: did they run?"


def test_the_free_memory_of_a_gpu_that_shares_it_is_not_known() -> None:
    assert devices.free_memory(torch.device("mps")) is None
    assert devices.free_memory(torch.device("cpu")) is None


def test_torchs_newer_names_of_its_precision(gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def mixed() -> str:
        raise RuntimeError("you have used mix of the legacy and new APIs")  # as torch does then

    monkeypatch.setattr(torch, "get_float32_matmul_precision", mixed)
    before = torch.backends.cudnn.allow_tf32, torch.backends.mkldnn.matmul.fp32_precision
    with devices.in_float32(torch.device("cuda")):
        assert torch.backends.cudnn.allow_tf32 == before[0], "they are the script's own"
    with single_precision(torch.device("cpu")):
        assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
    assert torch.backends.mkldnn.matmul.fp32_precision == before[1]
    line = r"cuda\+tf32 beside torch.backends.fp32_precision"
    with pytest.raises(InputError, match=line), Device.of("cuda+tf32").arithmetic():
        pass


@pytest.mark.parametrize("fault", ["weight", "memory"])
def test_arrays_that_were_not_written_are_programmed_again(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels program the arrays of a chip at its end: what was refused before is not taken for programmed."""
    full = fault == "memory"

    def kernel(jobs: Sequence[Job]) -> None:
        if full:
            raise torch.OutOfMemoryError("CUDA out of memory")
        for job in jobs:
            job.out.copy_(planes._plain(job.hardware, job.columns, job.key, job.chip, job.scale))

    model = nn.Sequential(nn.Linear(6, 5, bias=False), nn.Linear(5, 4, bias=False)).requires_grad_(False)
    wanted, analog = (to_analog(model, Hardware.preset("bayesft", sigma=0.5)) for _ in range(2))
    clean = float(model[1].weight[0, 0])
    monkeypatch.setattr(fused, "usable", lambda job: True)
    monkeypatch.setattr(chips, "program_arrays", kernel)
    chips.analog_state(analog).tensors = True
    if fault == "weight":
        analog[1]._parameters["weight"][0, 0] = torch.nan
    with pytest.raises(MemoryError if full else InputError):
        chips.program(analog)
    full = False
    if fault == "weight":
        analog[1]._parameters["weight"][0, 0] = clean
    chips.program(analog)
    for i in (0, 1):
        with torch.no_grad():
            assert torch.allclose(analog[i].weight, wanted[i].weight, rtol=1e-5)


def test_memory_that_is_full_beside_the_forward() -> None:
    """Copies of inputs and comparisons of outputs may be what does not fit."""

    def compared(y: torch.Tensor, part: slice) -> int:
        if len(y) > 130:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return len(y)

    model = nn.Linear(3, 2).eval()
    with pytest.warns(UserWarning, match="memory is full"):
        assert sum(evaluate.outputs(model, torch.ones(1200, 3), reduce=compared)) == 1200
    with pytest.raises(MemoryError):
        evaluate.outputs(model, torch.ones(200, 3), fixed=200, reduce=compared)
