"""Sentences that keep a reader from believing too much, and scores of outputs that are no numbers."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from crossbar_sim import (
    Differential,
    GaussianReadNoise,
    Hardware,
    InputError,
    Key,
    LogNormalDrift,
    Offset,
    PolynomialNoise,
)
from crossbar_sim.crossbar import threads
from crossbar_sim.nn import seeded, to_analog
from crossbar_sim.robustness import deploy
from crossbar_sim.robustness.point import Point
from crossbar_sim.robustness.score import Reference, Score, of_tail
from crossbar_sim.robustness.sweep import tails
from crossbar_sim.store import export_chip, read_chip
from crossbar_sim.store.records import Trial

pytestmark = pytest.mark.filterwarnings("ignore::crossbar_sim.errors.CrossbarWarning")
"""Every test here looks at what is warned of in the report; that it is issued as well is in test_warnings.py."""


def inputs(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_normal(shape).astype(np.float32))


def linear(out: int = 4) -> nn.Module:
    with seeded(Key(5)):
        return nn.Sequential(nn.Linear(6, out))


def warned(model: nn.Module, hardware: Hardware, x: torch.Tensor, **options: object) -> str:
    return " | ".join(deploy(model, x, None, hardware, chips=range(2), **options).warnings)  # type: ignore[arg-type]


DRIFT = LogNormalDrift(0.3)
WAN = PolynomialNoise((3.48e-07, 1.603e-05, -4.3853e-05, 4.5393e-05, -1.6815e-05), 4e-5)


@pytest.mark.parametrize(
    ("hardware", "says"),
    [
        (Hardware(Differential(copies=4)), "copies=4 does nothing"),
        (Hardware(drift=DRIFT, normalisation="folded"), "no batch normalisation alone follows"),
        (Hardware(Offset(), drift=DRIFT, drift_per="weight"), "drift_per=weight does nothing"),
        (Hardware(Differential(0.0, 1e-3), programming=WAN), "polynomial is negative"),
    ],
)
def test_a_request_that_cannot_act_is_named(hardware: Hardware, says: str):
    assert says in warned(linear(), hardware, inputs(50, 6))


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with seeded(Key(5)):
            self.conv, self.bn, self.fc = nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3), nn.Linear(9, 3)
            self.ln = nn.LayerNorm(9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.ln(self.bn(self.conv(x)).flatten(1)))


FOLDED = Hardware(drift=DRIFT, normalisation="folded")
BY_DESIGN = {"conv": "digital", "*": FOLDED}


@pytest.mark.parametrize("exported", [False, True], ids=["eager", "exported"])
@pytest.mark.parametrize(
    ("hardware", "ways", "says"),
    [
        (FOLDED, {}, None),
        (FOLDED, {"skip": ["bn"]}, "nothing is folded: bn (skipped as asked)"),
        (FOLDED, {"only": ["fc"]}, "nothing is folded: bn (not among those chosen with only)"),
        (
            FOLDED,
            {"skip": ["conv"]},
            "nothing is folded: bn (an affine normalisation; conv before it is skipped as",
        ),
        (
            BY_DESIGN,
            {},
            "nothing is folded: bn (an affine normalisation; conv before it is digital by its design)",
        ),
        ({"bn": "digital", "*": FOLDED}, {}, None),
        ({"bn": replace(FOLDED, normalisation="digital"), "*": FOLDED}, {}, None),
    ],
)
def test_why_nothing_is_folded_is_said(hardware, ways, says, exported):
    model, x = Normed().eval(), inputs(20, 2, 4)
    shapes = ({0: torch.export.Dim("n")},)
    model = torch.export.export(model, (x,), dynamic_shapes=shapes).module() if exported else model
    said = warned(model, hardware, x, **ways)
    assert says in said if says else "normalisation=folded" not in said and "no effect" not in said
    assert "alone follows" not in said


DRIFTING = Hardware(drift=DRIFT, normalisation="drifting")


@pytest.mark.parametrize(
    ("of_norm", "base", "says"),
    [
        ({"read_noise": "gaussian:sigma=0.02"}, DRIFTING, "read_noise of 'ln' does not act"),
        ({"levels": 4}, replace(DRIFTING, read_noise=GaussianReadNoise(0.02)), None),
        ({"programming": "constant:sigma=0.1"}, DRIFTING, None),
        ({"levels": 4}, Hardware(drift=DRIFT), "the design of 'ln' has no effect"),
        ("digital", replace(DRIFTING, read_noise=GaussianReadNoise(0.02)), None),
    ],
)
def test_what_a_design_requests_of_a_normalisation_is_named_where_it_cannot_act(of_norm, base, says):
    said = warned(Normed().eval(), {"ln": of_norm, "*": base}, inputs(20, 2, 4))
    assert says in said if says else "not act" not in said and "no effect" not in said


def test_a_sensible_design_is_not_warned_of():
    assert warned(linear(), Hardware(Differential(0.0, 4e-5), DRIFT, WAN), inputs(50, 6)) == ""


def test_a_bias_that_joins_no_row_is_named():
    with seeded(Key(5)):
        model = nn.Sequential(nn.ConvTranspose1d(2, 3, 2), nn.Flatten())
    assert "bias=row adds no row in 0" in warned(model, Hardware(drift=DRIFT, bias="row"), inputs(20, 2, 4))


def test_a_model_with_nothing_on_arrays_is_named():
    with seeded(Key(5)):
        model = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
    assert "no layer is on an array" in warned(model, Hardware(drift=DRIFT, other="drifting"), inputs(20, 6))


def test_a_clean_model_that_cannot_disagree_is_named():
    model = linear()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert "all zero" in warned(model, Hardware(drift=DRIFT, other="drifting"), inputs(20, 6))
    model = linear()
    with torch.no_grad():
        model[0].bias[2] = 100.0  # type: ignore[index]
    assert "one class" in warned(model, Hardware(drift=DRIFT), inputs(20, 6))


def test_image_like_outputs_point_to_the_other_metric():
    model = nn.Sequential(linear(3 * 4 * 4), nn.Unflatten(1, (3, 4, 4)))
    assert "--metric output_error" in warned(model, Hardware(drift=DRIFT), inputs(20, 6))
    assert "--metric" not in warned(model, Hardware(drift=DRIFT), inputs(20, 6), metric="agreement")


class Breaks(nn.Module):
    """NaN for one input in four on arrays, and sound without: its clean weight is exactly 1."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 2, bias=False)
        nn.init.ones_(self.head.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.head(torch.ones_like(x[:, :1])) * torch.tensor([1.0, 0.5])
        bad = (x[:, :1] > 0) & (self.head.weight[0, 0] != 1)
        return torch.where(bad, torch.full_like(y, torch.nan), y)


def test_outputs_that_are_no_numbers_count_as_wrong_and_are_named():
    x, y = torch.tensor([[1.0], [-1.0], [-1.0], [-1.0]]), torch.zeros(4).long()
    found = deploy(Breaks(), x, y, Hardware(drift=LogNormalDrift(0.01), drift_per="weight"), chips=range(3))
    assert [score.accuracy for score in found.scores] == [0.75] * 3  # NaN's largest would be class 0: right
    assert any("not finite for up to 25.0%" in warning for warning in found.warnings)


def test_scores_do_not_depend_on_torchs_threads():
    model, x = linear(100), inputs(12_345, 6)
    found, before = [], torch.get_num_threads()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            threads.set_threads(n)
            found.append(deploy(model, x, None, Hardware(drift=DRIFT), chips=range(2)).as_dict())
    finally:
        torch.set_num_threads(before)
        threads.set_threads(2)
    assert found[0] == found[1] == found[2]
    assert Reference.of(model, x, None).norm > 0


class Answers(nn.Module):
    """Linear outputs, given back as a function makes them."""

    def __init__(self, answer: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.fc, self.answer = linear(), answer

    def forward(self, x: torch.Tensor) -> object:
        return self.answer(self.fc(x))


def test_the_output_that_is_judged_is_named_where_there_are_several():
    x, hardware = inputs(20, 6), Hardware(drift=DRIFT)
    text = warned(Answers(lambda y: (y[:, :3], y)), hardware, x)
    assert "returns 2 outputs: the first, of shape (3,), is judged" in text
    for answer in (lambda y: y, lambda y: (y, None), lambda y: {"aux": y, "out": y}):
        assert "outputs" not in warned(Answers(answer), hardware, x)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_outputs_of_half_precision_have_an_error(kind: torch.dtype):
    x, hardware = inputs(50, 6), Hardware(drift=DRIFT)
    scores = [
        deploy(Answers(each), x, None, hardware, chips=range(2), metric="output_error").scores
        for each in (lambda y: y * 1e4, lambda y: (y * 1e4).to(kind))  # squares are past float16's largest
    ]
    for exact, rounded in zip(*scores, strict=True):
        assert rounded.output_error == pytest.approx(exact.output_error, rel=0.02)
        assert rounded.broken == 0


def test_outputs_that_are_true_or_false_are_scores_too():
    (score,) = deploy(Answers(lambda y: y > 0), inputs(50, 6), None, Hardware(drift=DRIFT), chips=1).scores
    assert score.agreement is not None
    assert 0 < score.agreement <= 1
    assert score.output_error is not None


def test_a_dead_chip_is_told_of_in_every_report_and_ordinary_chips_change_nothing():
    clean = Trial(0.5, 0, 0.9, 100, 0.0)
    ordinary = tuple(replace(clean, chip=i, value=0.9 + 0.001 * (i % 7)) for i in range(20))
    one_dead = (*ordinary[:19], replace(clean, chip=19, value=0.1))
    points = [Point("erm", "accuracy", 0.5, 0.95, 100, trials) for trials in (ordinary, one_dead)]
    assert points[0].caution is None
    assert "caution" not in points[0].as_dict()
    assert {*points[1].as_dict()} - {*points[0].as_dict()} == {"caution"}
    assert points[1].summary.ci95 == pytest.approx((0.7786, 0.9466), abs=1e-4), "the t interval, as ever"
    assert [*tails({"erm": points[:1]})] == []
    (line,) = tails({"erm": [points[1], points[1]]})
    assert line.startswith(
        "erm, sigma 0.5, 0.5; at 0.5: 1 of 20 chips lies far from the others (at 0.1 where"
    )


def test_an_error_is_told_of_as_an_error():
    values = [0.02 + 0.001 * (i % 5) for i in range(19)] + [0.9]
    scores = tuple(Score(None, None, value, 0.0) for value in values)
    (line,) = of_tail(scores, "output_error")
    assert "1 of 20 chips lies far from the others (at 0.9 where the median is 0.02" in line


class Tied(nn.Module):
    """An embedding whose table is the decoder's weight, as in language models."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.decoder = nn.Linear(6, 11)
        self.decoder.weight = self.table.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.table(x).mean(1))


@pytest.mark.parametrize("mapping", [Differential(), Offset(), Differential(scale_per="column")])
def test_a_tied_table_has_the_cells_of_its_matrix(mapping: Differential | Offset, tmp_path):
    with seeded(Key(2)):
        model = Tied().eval()
    hardware = Hardware(mapping, drift=DRIFT, bias="drifting", other="drifting")
    analog = to_analog(model, hardware, chip=1)
    with torch.no_grad():
        assert torch.equal(analog.table.weight, analog.decoder.weight)
        assert not torch.equal(analog.table.weight, model.table.weight)
    path = tmp_path / "chip.h5"
    export_chip(analog, path, hardware=hardware, seed=0, chip=1, model_sha256="", version="")
    assert "table.weight" in {array.name for array in read_chip(path).arrays}


def test_a_scripted_module_is_refused_with_the_way_out():
    with pytest.raises(InputError, match="TorchScript"):
        to_analog(torch.jit.trace(linear(), inputs(2, 6)), Hardware(drift=DRIFT))
