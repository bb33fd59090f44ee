"""A task whose numbers earlier versions computed in another way has a key that says so; ordinary tasks have none."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.analog_models import numbers
from torch import Tensor, nn

from crossbar_sim import Hardware, LogNormalDrift
from crossbar_sim.crossbar.converters import ADC, DAC
from crossbar_sim.robustness import robustness

pytestmark = pytest.mark.filterwarnings("ignore::crossbar_sim.errors.CrossbarWarning")

X = numbers(6, 8).abs()
DRIFT = Hardware(drift=LogNormalDrift(0.1))
COARSE = replace(DRIFT, dac=DAC(bits=5), adc=ADC(bits=5, range="max"))
ROW = replace(DRIFT, bias="row")
KEYS = ("converted", "unfolded", "bias_rows", "adapters", "tied")


class Own(nn.Module):
    def __init__(self, how: Any, *shape: int) -> None:
        super().__init__()
        self.weight, self.bias, self.how = nn.Parameter(numbers(*shape)), nn.Parameter(numbers(6)), how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(x, self.weight, self.bias)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base, self.lora_A = nn.Linear(8, 6), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.lora_A(x)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.mid, self.head = nn.Embedding(8, 4), nn.Linear(4, 4), nn.Linear(4, 8)
        self.head.weight = self.emb.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mid(self.emb(x.argmax(-1))))


def halves(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return torch.cat([F.linear(x, v, c) for v, c in zip(w.chunk(2), b.chunk(2), strict=True)], 1)


def of(how: Any, *shape: int) -> Any:
    return lambda: Own(how, *shape)


CASES: dict[str, tuple[Any, Any, dict[str, Any], str | None]] = {
    "linear": (lambda: nn.Linear(8, 6), COARSE, {}, None),
    "convolution": (lambda: nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 2, 3), nn.Flatten()), COARSE, {}, None),
    "matmul": (of(lambda x, w, b: x @ w + b, 8, 6), COARSE, {}, None),
    "addmm": (of(lambda x, w, b: torch.addmm(b, x, w), 8, 6), COARSE, {}, None),
    "slices": (of(lambda x, w, b: torch.cat([x @ w[:, :3], x @ w[:, 3:]], 1), 8, 6), COARSE, {}, None),
    "added matrix": (of(lambda x, w, b: torch.addmm(x[:, :6], x, w), 8, 6), COARSE, {}, "converted"),
    "from the left": (of(lambda x, w, b: (w @ x.T).T, 6, 8), COARSE, {}, "converted"),
    "groups": (of(lambda x, w, b: (x.view(-1, 2, 1, 4) @ w).flatten(1), 2, 4, 3), COARSE, {}, "converted"),
    "permuted": (of(lambda x, w, b: F.linear(x, w.permute(1, 0, 2).reshape(6, 8)), 2, 6, 4), COARSE, {}, "converted"),
    "from the left, exact": (of(lambda x, w, b: (w @ x.T).T, 6, 8), DRIFT, {}, None),
    "bias row": (lambda: nn.Linear(8, 6), ROW, {}, None),
    "bias rows in parts": (of(halves, 6, 8), ROW, {}, "bias_rows"),
    "digital bias in parts": (of(halves, 6, 8), DRIFT, {}, None),
    "adapter": (Named, {"lora_A": {"levels": 8}, "*": DRIFT}, {}, "adapters"),
    "digital adapter": (Named, DRIFT, {}, None),
    "chosen adapter": (Named, DRIFT, {"only": ["*"]}, None),
    "tied": (Tied, DRIFT, {}, None),
    "tied, digital head": (Tied, DRIFT, {"skip": ["head"]}, "tied"),
    "tied, digital table": (Tied, DRIFT, {"skip": ["emb"]}, None),
}  # fmt: skip


@pytest.mark.parametrize("exported", [False, True], ids=["eager", "exported"])
@pytest.mark.parametrize("name", CASES)
def test_only_what_is_computed_in_another_way_has_a_key(name: str, exported: bool) -> None:
    make, hardware, ways, key = CASES[name]
    model = make().eval()
    if exported:
        if isinstance(model, Tied):
            pytest.skip("a graph in memory reads one name")
        model = torch.export.export(model, (X,), dynamic_shapes=({0: torch.export.Dim("n")},)).module()
    found = robustness({"a": model}, X, hardware, [0.1], chips=1, **ways).tasks["a"].identity
    assert [k for k in KEYS if k in found] == ([key] if key else [])
