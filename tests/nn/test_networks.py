import pytest
import torch
from torch import nn

from crossbar_sim import Key
from crossbar_sim.errors import InputError
from crossbar_sim.nn import load_model, seeded
from crossbar_sim.nn.networks import MLP, LeNet5, build
from crossbar_sim.nn.networks.base import of_images, of_values


def test_default_mlp_is_the_papers():
    model = MLP()
    shapes = [tuple(p.shape) for name, p in model.named_parameters() if name.endswith("weight")]
    assert shapes == [(192, 784), (32, 192), (10, 32)]
    assert model(torch.ones(5, 1, 28, 28)).shape == (5, 10)


@pytest.mark.parametrize("hidden", [(), (7,), (7, 6, 5, 4)])
def test_mlp_of_any_depth(hidden):
    model = MLP(12, hidden, 3, dropout=0.25, activation="tanh")
    names = [name for name, _ in model.named_children()]
    assert [n for n in names if n.startswith("fc")] == [f"fc{i + 1}" for i in range(len(hidden) + 1)]
    sites = {name: m.p for name, m in model.named_children() if isinstance(m, nn.Dropout)}
    assert sites == {f"dropout{i + 1}": 0.25 for i in range(len(hidden))}
    assert model(torch.ones(2, 3, 4)).shape == (2, 3)


def test_mlp_computes_what_its_layers_say():
    model = MLP(4, (3,), 2).eval()
    x = torch.tensor([[1.0, -2.0, 3.0, -4.0]])
    by_hand = model.fc2(torch.relu(x @ model.fc1.weight.T + model.fc1.bias))
    assert torch.equal(model(x), by_hand)


def test_a_rate_per_site():
    model = MLP(4, (3, 3), 2, dropout=(0.1, 0.2))
    assert (model.dropout1.p, model.dropout2.p) == (0.1, 0.2)
    lenet = LeNet5(dropout=(0.1, 0.2, 0.3, 0.4))
    assert [getattr(lenet, f"dropout{i}").p for i in (1, 2, 3, 4)] == [0.1, 0.2, 0.3, 0.4]


def test_dropout_acts_in_training_only():
    model = MLP(64, (256,), 5, dropout=0.5)
    x = torch.ones(1, 64)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("size", [8, 9, 12, 16, 19, 20, 24, 28, 32, 64])
def test_lenet_of_any_size_ends_in_one_pixel(size):
    model = LeNet5(channels=3, size=size, classes=7)
    sides = []
    model.conv3.register_forward_hook(lambda _m, _x, y: sides.append(tuple(y.shape[2:])))
    assert model(torch.ones(2, 3, size, size)).shape == (2, 7)
    assert sides == [(1, 1)]


def test_lenet_at_28_is_the_classic():
    shapes = {n: tuple(p.shape) for n, p in LeNet5().named_parameters() if n.endswith("weight")}
    assert shapes == {
        "conv1.weight": (6, 1, 5, 5),
        "conv2.weight": (16, 6, 5, 5),
        "conv3.weight": (120, 16, 5, 5),
        "fc1.weight": (84, 120),
        "fc2.weight": (10, 84),
    }


@pytest.mark.parametrize("name", ["mlp", "lenet5"])
def test_arguments_rebuild_the_network(name):
    model = build(name, classes=4, dropout=0.25, activation="gelu")
    twin = build(name, **model.arguments)
    twin.load_state_dict(model.state_dict())
    assert twin.arguments == model.arguments
    assert repr(twin) == repr(model)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"inputs": 0}, "inputs=0"),
        ({"inputs": 4.5}, "inputs=4.5"),
        ({"inputs": True}, "inputs=True"),
        ({"classes": -1}, "classes=-1"),
        ({"hidden": (3, 0)}, "hidden width=0"),
        ({"hidden": 3}, "hidden=3"),
        ({"hidden": "33"}, "hidden='33'"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"dropout": -0.1}, "dropout=-0.1"),
        ({"dropout": float("nan")}, "dropout=nan"),
        ({"dropout": "0.5"}, "dropout='0.5'"),
        ({"dropout": (0.1,)}, "1 rates but the network has 2 sites"),
        ({"dropout": 2.0, "hidden": ()}, "dropout=2.0"),
        ({"activation": "step"}, "choose from relu"),
        ({"normalisation": "weight"}, "normalisation='weight' is unknown: choose from None, batch, layer"),
        ({"normalisation": True}, "normalisation=True is unknown"),
        ({"normalisation": "layer", "hidden": (1,)}, "of a layer of 1 value leaves nothing"),
        ({"widths": (3,)}, "no argument 'widths': its arguments are inputs, hidden"),
    ],
)
def test_bad_mlp_arguments_are_refused(arguments, says):
    with pytest.raises(InputError) as caught:
        build("mlp", **arguments)
    assert says in str(caught.value)


@pytest.mark.parametrize("arguments", [{"size": 7}, {"channels": 0}, {"dropout": (0.1, 0.2)}])
def test_bad_lenet_arguments_are_refused(arguments):
    with pytest.raises(InputError):
        build("lenet5", **arguments)


def test_unknown_network_is_named():
    with pytest.raises(InputError, match="'resnet' is unknown: choose from mlp, lenet5"):
        build("resnet")


def test_the_first_weights_are_those_of_torchs_layers_in_order():
    with seeded(Key(3)):
        weights = [p.clone() for p in MLP(5, (4, 3), 2).parameters()]
    with seeded(Key(3)):
        layers = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(3, 2))
    assert all(torch.equal(a, b) for a, b in zip(weights, layers.parameters(), strict=True))


@pytest.mark.parametrize(("name", "kind"), [("leaky_relu", nn.LeakyReLU), ("elu", nn.ELU)])
def test_activations_by_name(name, kind):
    assert type(MLP(4, (3,), 2, activation=name).activation1) is kind


NORMALISED = torch.tensor([[1.0, 2.0, 3.0, 6.0], [2.0, 2.0, 2.0, 6.0]])


@pytest.mark.parametrize(
    ("name", "expected", "parameters"),
    [
        # of two numbers a and b the normalised ones are -1 and 1, whatever a < b are
        ("batch", [[-1, 0, 1, 0], [1, 0, -1, 0]], 8),
        ("layer", [[-1.0690, -0.5345, 0.0, 1.6036], [-0.5774, -0.5774, -0.5774, 1.7321]], 8),
        ("instance", [[-1.0690, -0.5345, 0.0, 1.6036], [-0.5774, -0.5774, -0.5774, 1.7321]], 0),
        ("group", [[-1, 1, -1, 1], [0, 0, -1, 1]], 8),
        (None, NORMALISED.tolist(), 0),
    ],
)
def test_normalisation_of_values(name, expected, parameters):
    layer = of_values(name, 4)
    assert torch.allclose(layer(NORMALISED), torch.tensor(expected, dtype=torch.float32), atol=1e-3)
    assert sum(p.numel() for p in layer.parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "alike"), [("batch", (0, 2, 3)), ("layer", (1, 2, 3)), ("instance", (2, 3))]
)
def test_normalisation_of_images_is_over(name, alike):
    x = torch.sin(torch.arange(2 * 6 * 3 * 4.0)).reshape(2, 6, 3, 4) * 5 + 1
    y = of_images(name, 6)(x)
    assert torch.allclose(y.mean(alike), torch.zeros(()), atol=1e-5)
    assert torch.allclose(y.var(alike, correction=0), torch.ones(()), atol=1e-3)
    assert sum(p.numel() for p in of_images(name, 6).parameters()) == (0 if name == "instance" else 12)


@pytest.mark.parametrize(("channels", "groups"), [(6, 3), (16, 4), (7, 1), (64, 32), (100, 4), (512, 32)])
def test_groups_of_channels(channels, groups):
    assert of_images("group", channels).num_groups == groups


def test_a_normalised_mlp_by_hand():
    model = MLP(4, (3,), 2, normalisation="layer").eval()
    x = torch.tensor([[1.0, -2.0, 3.0, -4.0]])
    h = model.fc1(x)
    h = (h - h.mean()) / torch.sqrt(h.var(correction=0) + 1e-5)
    assert torch.allclose(model(x), model.fc2(torch.relu(h)), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mlp", {"inputs": 6, "hidden": (5,), "classes": 3, "dropout": (0.25,), "activation": "relu"}),
        ("lenet5", {"channels": 1, "size": 8, "classes": 4, "dropout": (0.0,) * 4, "activation": "tanh"}),
    ],
)
def test_a_checkpoint_of_version_0_1_loads(tmp_path, name, arguments):
    """It knows no argument normalisation, and its weights have the same names."""
    model = build(name, **arguments)
    content = {
        "format": "crossbar-sim checkpoint",
        "format_version": 1,
        "network": name,
        "arguments": arguments,
        "data": "digits",
        "state_dict": model.state_dict(),
        "notes": {},
    }
    torch.save(content, tmp_path / "old.pt")
    loaded = load_model(tmp_path / "old.pt").module
    assert loaded.arguments == {**arguments, "normalisation": None}
    assert all(name.split(".")[0].startswith(("fc", "conv")) for name in content["state_dict"])
    shape = (2, 6) if name == "mlp" else (2, 1, 8, 8)
    assert torch.equal(loaded(torch.ones(shape)), model.eval()(torch.ones(shape)))
