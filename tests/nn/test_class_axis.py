"""Where the classes lie in a model's outputs: found from operations, labels or shapes, else refused; and the scores."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from crossbar_sim import CrossbarWarning, Hardware, InputError, Key
from crossbar_sim.nn import seeded, to_analog
from crossbar_sim.robustness import deploy, robustness
from crossbar_sim.robustness.score import Reference

HARDWARE = Hardware.preset("bayesft", sigma=0.6)


class Around(nn.Module):
    """A model whose forward is a function of itself and its input."""

    def __init__(self, forward: Callable[[Any, torch.Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.around = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> Any:
        return self.around(self, x)


def ids(n: int, t: int, words: int = 40) -> torch.Tensor:
    return (torch.arange(n * t).reshape(n, t) * 7 + torch.arange(n)[:, None]) % words


def numbers(*shape: int) -> torch.Tensor:
    return torch.sin(torch.arange(float(torch.Size(shape).numel())) * 1.7 + 0.3).reshape(shape)


def tagger(forward: Any = lambda s, x: s.o(s.e(x)), classes: int = 40, **more: nn.Module) -> nn.Module:
    with seeded(Key(3)):
        return Around(forward, e=nn.Embedding(40, 16), o=nn.Linear(16, classes), **more).eval()


CASES: dict[str, tuple[Callable[[], nn.Module], torch.Tensor, int | None]] = {
    "tokens": (tagger, ids(20, 12), 2),
    "as many tokens as classes": (tagger, ids(20, 40), 2),
    "transposed for a loss": (lambda: tagger(lambda s, x: s.o(s.e(x)).transpose(1, 2)), ids(20, 40), 1),
    "softmax after": (lambda: tagger(lambda s, x: F.log_softmax(s.o(s.e(x)), -1).mT), ids(20, 40), 1),
    "tied": (lambda: tagger(lambda s, x: s.o(s.e(x)) @ s.e.weight.T, 16), ids(20, 40), 2),
    "dictionary": (lambda: tagger(lambda s, x: {"logits": s.o(s.e(x))}), ids(20, 40), 2),
    "reshaped": (
        lambda: tagger(lambda s, x: s.o(s.e(x).reshape(-1, 16)).view(len(x), -1, 40)), ids(20, 40), 2,
    ),
    "lstm": (
        lambda: tagger(lambda s, x: s.r(s.e(x))[0], r=nn.LSTM(16, 12, batch_first=True)), ids(20, 12), 2,
    ),
    "attention": (
        lambda: tagger(
            lambda s, x: s.o(s.t(s.e(x))), 12, t=nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        ),
        ids(20, 12),
        2,
    ),
    "signal": (lambda: nn.Conv1d(4, 9, 3, padding=1), numbers(20, 4, 9), 1),
    "signal, channels last": (
        lambda: Around(lambda s, x: s.c(x.mT).mT, c=nn.Conv1d(4, 9, 3, padding=1)), numbers(20, 9, 4), 2,
    ),
    "segmentation": (
        lambda: Around(lambda s, x: F.interpolate(s.c(x), scale_factor=2), c=nn.Conv2d(3, 8, 2, stride=2)),
        numbers(20, 3, 8, 8),
        1,
    ),
    "segmentation, channels last": (
        lambda: Around(lambda s, x: s.c(x).permute(0, 2, 3, 1), c=nn.Conv2d(3, 8, 3, padding=1)),
        numbers(20, 3, 8, 8),
        3,
    ),
    "by the shape": (
        lambda: tagger(lambda s, x: torch.einsum("btf,cf->btc", s.e(x), s.o.weight), 13), ids(20, 12), 2,
    ),
    "undecided": (lambda: Around(lambda s, x: s.o(x).view(-1, 3, 5), o=nn.Linear(6, 15)), numbers(20, 6), None),
    "classes": (lambda: nn.Linear(6, 5), numbers(20, 6), 1),
}  # fmt: skip


@pytest.mark.parametrize("exported", [False, True], ids=["module", "archive"])
@pytest.mark.parametrize("name", CASES)
def test_the_axis_is_found(name, exported):
    made, x, axis = CASES[name]
    model = made().eval()
    if exported:
        model = torch.export.export(model, (x,)).module()
    assert Reference.of(model, x, None, fixed=len(x) if exported else None).axis == axis


@pytest.mark.parametrize("swept", [False, True], ids=["deploy", "sweep"])
@pytest.mark.parametrize("turned", [False, True], ids=["classes last", "classes second"])
def test_tokens_are_counted_one_by_one_and_padding_is_not(turned, swept):
    model = tagger((lambda s, x: s.o(s.e(x)).mT) if turned else (lambda s, x: s.o(s.e(x))))
    x = ids(30, 40)
    with torch.no_grad():
        clean = model.o(model.e(x)).argmax(-1)
        chip = to_analog(model, HARDWARE)(x).argmax(1 if turned else -1)
    y = clean.clone()
    y[:, ::5] += 1  # some are wrong, without any chip
    y[y == 40] = 0
    y[:, 31:] = -100
    judged = y >= 0
    want = float((chip == y)[judged].double().mean())
    alike = float((chip == clean).double().mean())
    if swept:
        sweep = robustness({"m": model}, (x, y), HARDWARE, [0.6], chips=1)
        assert sweep.curve("m")[0].values == pytest.approx((want,))
        (free,) = robustness({"m": model}, (x, None), HARDWARE, [0.6], chips=1).curve("m")[0].values
        assert free == pytest.approx(alike)
    else:
        found = deploy(model, x, y, HARDWARE, chips=1, sensitivity_chips=1)
        assert found.scores[0].accuracy == pytest.approx(want)
        assert found.clean.accuracy == pytest.approx(float((clean == y)[judged].double().mean()))
        assert found.as_dict()["judged"]["unit"] == "token"
        assert found.as_dict()["judged"]["ignored"] == int((~judged).sum())
        assert deploy(model, x, None, HARDWARE, chips=1).scores[0].agreement == pytest.approx(alike)
    assert 0 < want < 1


def test_drawn_examples_weigh_by_their_tokens():
    model, x = tagger(), ids(60, 12)
    y = model(x).argmax(-1)
    for i in range(60):
        y[i, 1 + i % 11 :] = -100
    reference = Reference.of(model, x, y)
    analog = to_analog(model, HARDWARE)
    every = reference.right(analog, torch.arange(60), "accuracy")
    assert every.mean() == pytest.approx(reference.score(analog).accuracy)


def test_what_pads_may_be_anything():
    model = tagger(lambda s, x: s.o(s.e(x)).masked_fill((x == 0)[..., None], 1e6))
    x = ids(20, 12).clamp_min(1)
    y = model(x).argmax(-1)
    x[:, 9:], y[:, 9:] = 0, -100
    found = deploy(model, x, y, HARDWARE, chips=2)
    assert found.clean.accuracy == 1
    assert all(score.broken == 0 and score.output_error is not None for score in found.scores)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "--class-axis"),
        ({"metric": "agreement"}, "--class-axis"),
        ({"class_axis": 3}, "axes 1 to 2"),
        ({"class_axis": 0}, "axes 1 to 2"),
        ({"class_axis": True}, "axes 1 to 2"),
    ],
)
def test_an_axis_that_is_not_known_is_refused(options, words):
    model = CASES["undecided"][0]()
    with pytest.raises(InputError, match=words):
        deploy(model, numbers(20, 6), None, HARDWARE, chips=1, **options)


def test_an_axis_that_is_named_is_used():
    model = CASES["undecided"][0]()
    for axis in (-1, 2, 1):
        with pytest.warns(CrossbarWarning, match="are taken for scores"):
            found = deploy(model, numbers(20, 6), None, HARDWARE, chips=1, class_axis=axis)
        assert found.judged is not None
        assert found.judged["classes"] == (3 if axis == 1 else 5)
    assert deploy(model, numbers(20, 6), None, HARDWARE, chips=1, metric="output_error").judged is None


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (torch.zeros(20, dtype=torch.int64), "one class number per example"),
        (torch.zeros(20, 7, dtype=torch.int64), "one class number per example"),
        (torch.full((20, 12), -100), "nothing would be judged"),
        (torch.full((20, 12), 40), "40 marks places that are not to be judged .100.0% of them here.*-100"),
        (torch.arange(240).reshape(20, 12) % 60, r"labels go up to 59 .* need a negative label, -100"),
    ],
)
def test_labels_that_do_not_fit_are_refused(y, words):
    with pytest.raises(InputError, match=words):
        deploy(tagger(), ids(20, 12), y, HARDWARE, chips=1)


def test_pixels_marked_with_255_are_refused_with_the_remedy_that_works():
    """As Pascal VOC and Cityscapes mark them; with the remedy they count no more than any other negative label."""
    model, x = nn.Conv2d(3, 5, 1).eval(), torch.rand(8, 3, 6, 6)
    y = torch.arange(8 * 36).reshape(8, 6, 6) % 5
    y[:, 0] = 255
    with pytest.raises(
        InputError, match=r"labels go up to 255 but the model has 5 outputs: if 255 marks"
    ) as refused:
        deploy(model, x, y, HARDWARE, chips=1)
    assert "(16.7% of them here)" in str(refused.value)
    remedied = y.clone()
    assert "y[y == 255] = -100" in str(refused.value)
    remedied[y == 255] = -100
    found = deploy(model, x, remedied, HARDWARE, chips=1)
    assert found.judged is not None
    assert found.judged["ignored"] == 8 * 6
