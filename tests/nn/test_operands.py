"""Weights are on arrays where a forward multiplies its inputs with them, whichever class holds them."""

import dataclasses
import functools
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers.analog_models import numbers
from helpers.graphs import export
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from crossbar_sim import CrossbarWarning, Hardware, InputError
from crossbar_sim.baselines import redundancy
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog.layers import arrays_of
from crossbar_sim.nn.analog.operands import trace_operands
from crossbar_sim.robustness import deploy
from crossbar_sim.search import DriftedScore
from crossbar_sim.store import read_chip

BAYESFT = Hardware.preset("bayesft", sigma=0.6)
X = numbers(6, 8)
GLOBAL: dict = {}


class Layer(nn.Linear):
    """A linear layer with a forward of its own."""

    def __init__(self, forward, inputs=8, outputs=8):
        super().__init__(inputs, outputs)
        self.own = forward
        self.scale = 0.5
        self.register_buffer("mask", (numbers(outputs, inputs) > 0).float())

    def forward(self, x):
        return self.own(self, x)


def remembered(layer, x):
    if "weight" not in GLOBAL:
        GLOBAL["weight"] = layer.weight
    return F.linear(x, GLOBAL["weight"], layer.bias)


@functools.lru_cache
def signs(layer):
    return layer.weight.sign()


def by_memory(layer, x):
    return F.linear(x, signs(layer), layer.bias)


def functional(layer, x):
    bare = nn.Linear(8, 8)
    return torch.func.functional_call(bare, dict(layer.named_parameters()), (x,))


def through_numpy(layer, x):
    return F.linear(x, torch.from_numpy(layer.weight.detach().numpy().copy()), layer.bias)


def block(layer, x):
    w = torch.zeros(8, 8)
    w[:4], w[4:] = layer.weight[4:], layer.weight[:4]
    return F.linear(x, w)


PRODUCTS = {
    "linear": lambda s, x: F.linear(x, s.weight, s.bias),
    "matmul": lambda s, x: x @ s.weight.T + s.bias,
    "addmm": lambda s, x: torch.addmm(s.bias, x, s.weight.t()),
    "from the left": lambda s, x: (s.weight @ x.T).T,
    "einsum": lambda s, x: torch.einsum("bi,oi->bo", x, s.weight),
    "tensordot": lambda s, x: torch.tensordot(x, s.weight, dims=([1], [1])),
    "half at a time": lambda s, x: torch.cat([F.linear(x, w) for w in s.weight.chunk(2)], 1),
    "concatenated": lambda s, x: F.linear(x, torch.cat([s.weight, s.weight[:2]]))[:, :8],
    "a convolution": lambda s, x: F.conv1d(x.unsqueeze(2), s.weight.unsqueeze(2), s.bias).squeeze(2),
    "blocks": block,
    "its data": lambda s, x: F.linear(x, s.weight.data, s.bias.data),
    "without gradients": torch.no_grad()(lambda s, x: F.linear(x, s.weight, s.bias)),
    "with gradients": torch.inference_mode(False)(
        lambda s, x: F.linear(x.clone(), s.weight, s.bias).detach()
    ),
    "and its norm": lambda s, x: F.linear(x, s.weight) / s.weight.norm(dim=1),
}

OTHERS = {
    "sign": ("computed", lambda s, x: F.linear(x, s.weight.sign(), s.bias)),
    "ternary": ("computed", lambda s, x: F.linear(x, torch.where(s.weight.abs() > 0.1, s.weight.sign(), 0.0))),
    "gain": ("computed", lambda s, x: F.linear(x, s.weight * s.scale, s.bias)),
    "mask": ("computed", lambda s, x: F.linear(x, s.weight * s.mask, s.bias)),
    "rounded": ("computed", lambda s, x: x @ (s.weight * 7).round().div(7).T),
    "fake": ("computed", lambda s, x: F.linear(x, torch.fake_quantize_per_tensor_affine(s.weight, 0.1, 0, -8, 7))),
    "standardised": ("computed", lambda s, x: F.linear(x, (s.weight - s.weight.mean()) / s.weight.std())),
    "normalised": ("computed", lambda s, x: F.linear(x, F.normalize(s.weight))),
    "factors": ("computed", lambda s, x: F.linear(x, s.weight @ s.weight.T)),
    "positive": ("computed", lambda s, x: F.linear(x, s.weight.exp())),
    "elementwise": ("operand", lambda s, x: x * s.weight[0]),
    "parameters": ("past", lambda s, x: F.linear(x, *s.parameters())),
    "state_dict": ("past", lambda s, x: F.linear(x, s.state_dict()["weight"])),
    "functional_call": ("past", functional),
    "sign of a clean one": ("past", lambda s, x: F.linear(x, next(s.parameters()).sign())),
    "a global": ("kept", remembered),
    "lru_cache": ("kept", by_memory),
    "numpy": ("read", through_numpy),
    "not at all": ("unused", lambda s, x: x + 1),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _forget():
    GLOBAL.clear()
    signs.cache_clear()


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_weight_that_a_product_takes_is_on_arrays(name):
    model = Layer(PRODUCTS[name]).eval()
    seen = trace_operands(to_analog(model, BAYESFT), X)
    assert seen.by_name["weight"].way == "product"
    assert not seen.by_name["weight"].also_bypassed
    assert chips.layers(to_analog(model, BAYESFT, operands=seen))[0].analog
    found = deploy(model, X, None, BAYESFT, chips=1, sensitivity_chips=0)
    assert found.scores[0].output_error > 0.05
    assert not found.warnings


@pytest.mark.parametrize("name", OTHERS)
def test_a_weight_that_no_product_takes_is_named_and_not_counted(name):
    way, forward = OTHERS[name]
    model = nn.Sequential(Layer(forward), nn.ReLU(), nn.Linear(8, 3)).eval()
    assert trace_operands(to_analog(model, BAYESFT), X).by_name["0.weight"].way == way
    GLOBAL.clear()
    found = deploy(model, X, None, BAYESFT, chips=2, sensitivity_chips=1)
    first = found.layers[0]
    assert not first.layer.analog
    assert first.as_dict()["cells"] == first.as_dict()["tiles"] == 0
    if way != "operand":
        assert [w for w in found.warnings if w.startswith("0: ")], found.warnings
    if way in ("past", "kept", "unused"):
        assert "weight" not in {slot.weight for slot in first.layer.slots}
    assert found.layers[1].layer.analog


def test_a_cache_filled_by_a_clean_evaluation_is_noticed():
    model = nn.Sequential(Layer(remembered), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        model(X)
    found = deploy(model, X, None, BAYESFT, chips=2, sensitivity_chips=0)
    assert not found.layers[0].layer.analog
    assert any("a closure or a cache" in warning for warning in found.warnings)


def test_what_is_kept_on_the_model_is_put_back_and_harmless():
    def cached(layer, x):
        if not hasattr(layer, "cache"):
            layer.cache = layer.weight
        return F.linear(x, layer.cache, layer.bias)

    found = deploy(Layer(cached).eval(), X, None, BAYESFT, chips=3, sensitivity_chips=0)
    plain = Layer(PRODUCTS["linear"]).eval()
    plain.load_state_dict(Layer(cached).state_dict())
    assert found.layers[0].layer.analog
    assert len({score.output_error for score in found.scores}) == 3


class Auxiliary(nn.Module):
    """A head for training alone."""

    def __init__(self):
        super().__init__()
        self.a, self.o, self.aux = nn.Linear(8, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        h = self.a(x).relu()
        return (self.o(h), self.aux(self.norm(h))) if self.training else self.o(h)


def cells(found):
    return sum(layer.as_dict()["cells"] for layer in found.layers)


def test_a_head_of_the_training_has_no_cells_as_a_module_and_exported():
    model = Auxiliary().eval()
    found = [deploy(m, X, None, BAYESFT, chips=1, sensitivity_chips=1) for m in (model, export(model, (X,)))]
    assert cells(found[0]) == cells(found[1]) == 2 * (64 + 24)
    assert found[0].scores[0].output_error == pytest.approx(found[1].scores[0].output_error, rel=1e-4)
    for each in found:
        idle = {layer.layer.name: layer for layer in each.layers}
        assert not idle["aux"].layer.slots
        assert idle["aux"].sensitivity is None
        assert any("aux" in warning for warning in each.warnings)


class Handed(nn.Module):
    """Weights that reach a layer by functional_call."""

    def __init__(self, make):
        super().__init__()
        self.w, self.lin, self.gen = (
            nn.Parameter(torch.ones(64, 64)),
            nn.Linear(64, 64, bias=False),
            nn.Linear(1, 64 * 64),
        )
        self.make = make

    def forward(self, x):
        return torch.func.functional_call(self.lin, {"weight": self.make(self)}, (x,))


HANDED = {
    "itself": lambda s: s.w,
    "transposed": lambda s: s.w.T,
    "scaled": lambda s: s.w * 2 / 2,
    "a copy": lambda s: s.w.clone(),
    "stacked": lambda s: torch.cat([s.w[:32], s.w[32:]]),
}


@pytest.mark.parametrize("name", HANDED)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_weight_handed_to_a_layer_drifts_once(name, mode):
    analog = to_analog(Handed(HANDED[name]).eval(), BAYESFT)
    with mode():
        spread = float(analog(torch.eye(64)).detach().log().std())
        with chips.locked(analog):
            again = float(analog(torch.eye(64)).detach().log().std())
    assert spread == pytest.approx(0.6, abs=0.03)
    assert again == spread


def test_the_layer_that_is_handed_a_weight_has_no_cells_of_its_own():
    model = Handed(HANDED["itself"]).eval()
    found = deploy(model, torch.eye(64), None, BAYESFT, chips=1, sensitivity_chips=0)
    (layer,) = (each for each in found.layers if each.layer.name == "lin")
    assert not layer.layer.slots
    assert any(w.startswith("lin: the model's forward hands another weight") for w in found.warnings)


def test_weights_that_a_caller_hands_to_the_whole_model_are_programmed():
    model = nn.Sequential(nn.Linear(64, 64, bias=False)).eval()
    analog = to_analog(model, BAYESFT)
    with torch.no_grad():
        handed = {"0.weight": torch.ones(64, 64)}
        y = torch.func.functional_call(analog, handed, (torch.eye(64),))
    assert float(y.log().std()) == pytest.approx(0.6, abs=0.03)


class Square(nn.Module):
    def forward(self, w):
        return w * w.abs()


def parametrised(kind):
    layer = nn.Linear(8, 8)
    if kind == "old weight_norm":
        layer = nn.utils.weight_norm(layer)
    elif kind == "old spectral_norm":
        layer = nn.utils.spectral_norm(layer)
    elif kind == "pruned":
        prune.l1_unstructured(layer, "weight", 0.5)
    elif kind == "own":
        parametrize.register_parametrization(layer, "weight", Square())
    else:
        layer = getattr(parametrizations, kind)(layer)
    return nn.Sequential(layer, nn.ReLU(), nn.Linear(8, 3)).eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind",
    ["weight_norm", "spectral_norm", "orthogonal", "old weight_norm", "old spectral_norm", "pruned", "own"],
)
def test_the_bias_of_a_parametrised_layer_drifts_and_both_ways_agree(kind):
    model = parametrised(kind)
    analog, exported = to_analog(model, BAYESFT), to_analog(export(model, (X,)), BAYESFT)
    bias = analog.get_submodule("0").bias
    assert not torch.equal(bias, model[0].bias)
    assert torch.equal(bias, exported.get_submodule("0").bias)
    found = [deploy(m, X, None, BAYESFT, chips=2, sensitivity_chips=0) for m in (model, export(model, (X,)))]
    first, second = (f.scores[0].output_error for f in found)
    assert first == pytest.approx(second, rel=1e-3)
    assert cells(found[0]) == cells(found[1]) == 48
    assert all(any("parametriz" in warning for warning in f.warnings) for f in found)


class Tied(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.a, self.b, self.o = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        if kind == "tied":
            self.b.weight = self.a.weight

    def forward(self, x):
        h = self.a(x).relu()
        if self.kind == "tied":
            h = self.b(h)
        elif self.kind == "twice":
            h = self.a(h)
        else:
            h = F.linear(h, self.a.weight.T)
        return self.o(h)


class TiedConvolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(2, 3, 2), nn.ConvTranspose1d(3, 2, 2)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x.unflatten(1, (2, 4))).relu()).flatten(1)


@pytest.mark.parametrize("kind", ["tied", "twice", "transposed", "convolutions"])
def test_shared_weights_are_one_set_of_cells(kind, tmp_path):
    from crossbar_sim.nn.files.loading import load_model

    model = (TiedConvolutions() if kind == "convolutions" else Tied(kind)).eval()
    torch.export.save(torch.export.export(model, (X,)), tmp_path / "m.pt2")
    ways = [model, export(model, (X,)), load_model(tmp_path / "m.pt2").module]
    found = [deploy(m, X, None, BAYESFT, chips=1, sensitivity_chips=0, fixed=len(X)) for m in ways]
    assert {cells(each) for each in found} == {24 if kind == "convolutions" else 2 * (64 + 24)}
    errors = [each.scores[0].output_error for each in found]
    assert errors == pytest.approx([errors[0]] * 3, rel=1e-4)


def test_ordinary_models_are_what_their_classes_say():
    model = nn.Sequential(
        nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.Flatten(2),
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.GRU(4, 4, batch_first=True),
    ).eval()  # fmt: skip
    analog = to_analog(model, BAYESFT)
    seen = trace_operands(analog, X)
    assert seen.is_standard
    assert all(
        o.way == "product"
        for n, o in seen.by_name.items()
        if "weight" in n and "norm" not in n and n[0] != "2"
    )
    assert math.isfinite(deploy(model, X, None, BAYESFT, chips=1, sensitivity_chips=0).scores[0].output_error)


def test_a_sweep_counts_and_names_as_a_deployment_does():
    from crossbar_sim.robustness.examples import Examples
    from crossbar_sim.robustness.tasks import Model, prepare

    model = Model("m", Auxiliary().eval(), Examples(X, None, {"name": "x"}), {"sha256": "0"})
    task, subject = prepare(model, BAYESFT, 0, None, None, (), lambda s: {"count": 6, "drawn": False}, 0.6)
    assert any("aux" in warning for warning in task.about["warnings"])
    assert not next(layer for layer in chips.layers(subject.analog(BAYESFT)) if layer.name == "aux").slots


class Unfed(nn.Module):
    """A head for training alone, behind a convolution: the shape of an input does not follow."""

    def __init__(self):
        super().__init__()
        self.conv, self.aux = nn.Conv1d(2, 3, 3), nn.Linear(3, 3)

    def forward(self, x):
        h = self.conv(x).mean(2)
        return self.aux(h) if self.training else h


def test_every_command_counts_what_a_deployment_does(command, tmp_path):
    model, path = Auxiliary().eval(), tmp_path / "aux.pth"
    torch.save(model, path)
    ways = (path, "--trust-pickle")
    priced = command("cost", *ways, "--json", "-")
    assert [layer["name"] for layer in priced.report["layers"]] == ["a.weight", "o.weight"]
    assert any(note.startswith("aux: ") for note in priced.report["notes"])
    described = command("info", *ways).out
    assert "aux (Linear): digital" in described
    assert "may be counted" not in described
    exported = command("export", *ways, tmp_path / "a.h5", "--sigma", "0.6")
    assert "warning: aux: " in exported.out.replace("\n", " ")
    maps = ("--chips", 2, "--sigma", "0.6", "--sensitivity-chips", 0, "--maps", tmp_path / "b.h5")
    deployed = command("deploy", *ways, *maps, "--plot", tmp_path / "b.png")
    assert deployed.code == 0, deployed.err
    for name in ("a.h5", "b.h5"):
        written = {array.name.rpartition(".")[0] for array in read_chip(tmp_path / name).arrays}
        assert written == {"a", "o"}
    back = command(
        "deploy", *ways, "--conductances", tmp_path / "a.h5", "--sensitivity-chips", 0, "--json", "-"
    )
    assert back.code == 0, back.err
    assert not any("no map" in warning for warning in back.report["warnings"])
    torch.save(Unfed().eval(), path)
    assert "may be counted" in command("info", *ways).out
    assert command("export", *ways, tmp_path / "c.h5").out.count("may be counted") == 1


def test_the_search_and_calibrations_count_what_a_deployment_does():
    model = nn.Sequential(Layer(OTHERS["sign"][1]), nn.ReLU(), nn.Linear(8, 3)).eval()
    y = model(X).argmax(1)
    searched = DriftedScore(X, y, BAYESFT, 0.6, 3, 0).measure(model).scores
    swept = deploy(model, X, y, BAYESFT, chips=3, sensitivity_chips=0)
    assert list(searched) == [score.accuracy for score in swept.scores]
    assert redundancy.cells(model, BAYESFT, X) == 2 * 24
    assert redundancy.cells(model, BAYESFT) == 2 * (24 + 64)


class Own(nn.Module):
    """A layer of no known class, as the Conv1D of transformers."""

    def __init__(self, forward, *shape):
        super().__init__()
        self.weight, self.bias, self.own = nn.Parameter(numbers(*shape)), nn.Parameter(numbers(5)), forward

    def forward(self, x):
        return self.own(self, x)


class Scaled(Own):
    """That does not run by itself."""

    def forward(self, x, scale):
        return self.own(self, x) * scale


class Within(nn.Module):
    """Calls one such."""

    def __init__(self):
        super().__init__()
        self.layer = Scaled(lambda s, x: x @ s.weight, 8, 5)

    def forward(self, x):
        return self.layer(x, 2.0)


class Block(nn.Module):
    """Parameters of the model itself beside layers."""

    def __init__(self):
        super().__init__()
        self.norm, self.place = nn.LayerNorm(8), nn.Parameter(numbers(1, 8))
        self.q, self.o = nn.Parameter(numbers(8, 8)), nn.Parameter(numbers(5, 8))

    def forward(self, x):
        return F.linear(self.norm(x + self.place) @ self.q, self.o)


class Adapted(nn.Linear):
    """With two factors of low rank beside its weight."""

    def __init__(self):
        super().__init__(8, 5)
        self.a, self.b = nn.Parameter(numbers(8, 2)), nn.Parameter(numbers(2, 5))

    def forward(self, x):
        return super().forward(x) + x @ self.a @ self.b


class LookedUp(nn.Module):
    """Multiplies with the table of an embedding."""

    def __init__(self):
        super().__init__()
        self.table, self.first = nn.Embedding(5, 6), nn.Linear(8, 6)

    def forward(self, x):
        return F.linear(self.first(x), self.table.weight)


ALONE = {
    "addmm": (lambda s, x: torch.addmm(s.bias, x, s.weight), (8, 5)),
    "as transformers do": (lambda s, x: torch.addmm(s.bias, x.view(-1, x.size(-1)), s.weight), (8, 5)),
    "linear": (lambda s, x: F.linear(x, s.weight, s.bias), (5, 8)),
    "matmul": (lambda s, x: x @ s.weight + s.bias, (8, 5)),
    "transposed": (lambda s, x: x @ s.weight.T + s.bias, (5, 8)),
    "from the left": (lambda s, x: (s.weight @ x.T).T + s.bias, (5, 8)),
    "square": (lambda s, x: x @ s.weight, (8, 8)),
    "halves": (lambda s, x: torch.cat([x @ s.weight[:, :4], x @ s.weight[:, 4:]], 1), (8, 8)),
    "batched": (lambda s, x: torch.bmm(x.expand(3, *x.shape), s.weight).sum(0), (3, 8, 5)),
    "experts": (lambda s, x: (x.unsqueeze(0) @ s.weight).sum(0) + s.bias, (3, 8, 5)),
    "a convolution": (lambda s, x: F.conv1d(x.unsqueeze(2), s.weight, s.bias).squeeze(2), (5, 8, 1)),
    "einsum": (lambda s, x: torch.einsum("bi,io->bo", x, s.weight), (8, 5)),
    "heads": (lambda s, x: torch.einsum("...h,hnd->...nd", x, s.weight).flatten(1), (8, 2, 5)),
    "heads first": (lambda s, x: torch.einsum("bh,nhd->bnd", x, s.weight).flatten(1), (2, 8, 5)),
    "out of heads": (lambda s, x: torch.einsum("bnd,ndh->bh", x.view(-1, 2, 4), s.weight), (2, 4, 5)),
    "einsum of experts": (
        lambda s, x: torch.einsum("ebh,ehf->bf", x.expand(3, *x.shape), s.weight),
        (3, 8, 5),
    ),
    "of each head": (
        lambda s, x: torch.einsum("bni,hni->bnh", x.view(-1, 2, 4), s.weight).flatten(1),
        (5, 2, 4),
    ),
    "permuted": (lambda s, x: x @ s.weight.permute(1, 0, 2).reshape(8, 6), (2, 8, 3)),
    "unbound": (lambda s, x: sum(x @ w for w in s.weight.unbind()), (3, 8, 5)),
    "rows": (lambda s, x: x[:, :4] @ s.weight[:4] + x[:, 4:] @ s.weight[4:], (8, 5)),
    "bilinear": (lambda s, x: F.bilinear(x, x, s.weight), (5, 8, 8)),
    "diagonal": (lambda s, x: torch.einsum("bi,ii->bi", x, s.weight), (8, 8)),
    "summed alone": (lambda s, x: torch.einsum("bi,ij->b", x, s.weight).unsqueeze(1), (8, 5)),
    "outer": (lambda s, x: torch.einsum("bi,jk->bj", x, s.weight), (5, 2)),
    "sign": (lambda s, x: x @ s.weight.sign(), (8, 5)),
}
NO_MATRIX = {
    "sign": "",
    "diagonal": "taken by einsum bi,ii->bi, where it is not a matrix: it has the index i twice",
    "summed alone": "its index j is summed by itself",
    "outer": "its index k is summed by itself",
}
OWN = {name: functools.partial(Own, forward, *shape) for name, (forward, shape) in ALONE.items()}
NOT_ALONE = {"an argument more": Within, "a block": Block, "factors": Adapted, "a table": LookedUp}


@pytest.mark.parametrize("other", ["drifting", "digital"])
@pytest.mark.parametrize("bias", ["drifting", "row"])
@pytest.mark.parametrize("name", [*OWN, *NOT_ALONE])
def test_a_layer_of_an_own_class_has_the_cells_that_it_has_exported(name, other, bias):
    model = nn.Sequential((OWN | NOT_ALONE)[name](), nn.ReLU())
    model = (model[0] if name == "a block" else model).eval()
    hardware = dataclasses.replace(BAYESFT, other=other, bias=bias)
    exported = torch.export.export(model, (X,)).module()
    ways = (model, exported)
    if other == "digital" and name in NO_MATRIX:
        for each in ways:  # nothing of it is on an array
            with pytest.raises(InputError, match=f"no layer to map.*{NO_MATRIX[name]}"):
                deploy(each, X, None, hardware, chips=1)
        return
    found = [deploy(m, X, None, hardware, chips=2, sensitivity_chips=0, fixed=len(X)) for m in ways]
    assert cells(found[0]) == cells(found[1])
    errors = [[score.output_error for score in each.scores] for each in found]
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)
    if name in OWN:  # and without inputs
        with torch.no_grad():
            outputs = [to_analog(m, hardware)(X) for m in ways]
        assert torch.allclose(*outputs, rtol=1e-5)


def test_a_layer_that_shows_nothing_by_itself_is_warned_of():
    with pytest.warns(
        CrossbarWarning, match=r"^layer\.weight: how the forward multiplies with it is not known"
    ):
        to_analog(Within().eval(), BAYESFT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_analog(nn.Sequential(OWN["addmm"](), nn.Linear(5, 3)).eval(), BAYESFT)


def test_a_weight_taken_past_a_layer_of_an_own_class_is_named():
    model = nn.Sequential(Own(lambda s, x: x @ next(s.parameters()), 8, 5), nn.Linear(5, 3)).eval()
    for other in ("drifting", "digital"):
        hardware = dataclasses.replace(BAYESFT, other=other)
        found = deploy(model, X, None, hardware, chips=1, sensitivity_chips=0)
        assert cells(found) == 2 * 15
        assert any("past" in warning for warning in found.warnings)


def test_programmed_values_of_earlier_runs_are_freed_unless_the_model_keeps_them():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.b(x @ held.setdefault("weight", self.a.weight).T)

    held = {}
    model = to_analog(Keeps().eval(), "ideal")
    with torch.inference_mode():
        model(numbers(2, 4))
    arrays = [arrays_of(layer) for layer in (model.a, model.b)]
    assert [bool(each.programmed) for each in arrays] == [True, True]
    operands = trace_operands(model, numbers(2, 4))
    assert [bool(each.programmed) for each in arrays] == [True, False]
    assert operands.by_name["a.weight"].way == "kept"
    assert operands.by_name["b.weight"].way == "product"
