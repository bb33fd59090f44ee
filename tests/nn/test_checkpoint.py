import builtins
import io
import os
import resource
import signal
import stat

import numpy as np
import pytest
import torch

from crossbar_sim.errors import InputError
from crossbar_sim.nn.files.checkpoint import FORMAT, _Undrawn, save_checkpoint
from crossbar_sim.nn.files.loading import load_model
from crossbar_sim.nn.networks import MLP, NETWORKS, LeNet5, build


@pytest.fixture
def model():
    return MLP(6, (5,), 3, dropout=0.25)


def test_round_trip(model, tmp_path):
    path = tmp_path / "model.pt"
    save_checkpoint(path, model, "mlp", model.arguments, "digits", {"accuracy": np.float64(0.5)})
    loaded = load_model(path)
    assert (loaded.source, loaded.name, loaded.data) == ("crossbar-sim checkpoint", "mlp", "digits")
    assert loaded.module.arguments == model.arguments
    assert not loaded.module.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[name], value)
    assert list(tmp_path.iterdir()) == [path]


def test_lenet_knows_its_images(tmp_path):
    lenet = LeNet5(channels=2, size=9)
    save_checkpoint(tmp_path / "m.pt", lenet, "lenet5", lenet.arguments, "digits")
    assert load_model(tmp_path / "m.pt").input_shape == (2, 9, 9)


def test_the_file_holds_plain_values_only(model, tmp_path):
    save_checkpoint(tmp_path / "m.pt", model, "mlp", model.arguments, "digits", {"epochs": 3})
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    assert content["format"] == FORMAT
    assert content["format_version"] == 1
    assert content["notes"] == {"epochs": 3}


def test_saving_does_not_move_the_random_generator(model, tmp_path):
    before = torch.random.get_rng_state()
    save_checkpoint(tmp_path / "m.pt", model, "mlp", model.arguments, "digits")
    load_model(tmp_path / "m.pt")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_permissions_are_those_of_an_ordinary_file(model, tmp_path):
    old = os.umask(0o022)
    try:
        save_checkpoint(tmp_path / "m.pt", model, "mlp", model.arguments, "digits")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "m.pt").stat().st_mode) == 0o644


@pytest.mark.parametrize("hidden", [5, 2000], ids=["small", "large"])
def test_a_full_disk_leaves_the_old_file_alone(hidden, tmp_path):
    network = MLP(6, (hidden,), 3)
    path = tmp_path / "m.pt"
    path.write_bytes(b"the old file")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error then, as on a full disk
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(InputError, match=r"cannot write .*: File too large; what was there is unchanged"):
            save_checkpoint(path, network, "mlp", network.arguments, "digits")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == b"the old file"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_directory_is_one_line(model, tmp_path):
    with pytest.raises(InputError, match="No such file or directory"):
        save_checkpoint(tmp_path / "no" / "m.pt", model, "mlp", model.arguments, "digits")


def test_a_network_that_could_not_be_rebuilt_is_not_saved(model, tmp_path):
    for network, arguments in [
        ("resnet", {}),
        ("mlp", {"inputs": 7}),
        ("mlp", {**model.arguments, "hidden": lambda: 3}),
    ]:
        with pytest.raises(InputError):
            save_checkpoint(tmp_path / "m.pt", model, network, arguments, "digits")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format_version": 2}, "format_version 2"),
        ({"network": "resnet"}, "'resnet' is unknown"),
        ({"network": 3}, "'network' is missing or not a str"),
        ({"arguments": None}, "'arguments' is missing or not a dict"),
        ({"arguments": {"depth": 3}}, "no argument 'depth'"),
        ({"arguments": {"inputs": 6, "hidden": (4,), "classes": 3}}, "of another shape"),
        ({"state_dict": {}}, "4 missing (fc1.weight, fc1.bias, fc2.weight, ...)"),
        ({"state_dict": {"fc1.weight": "x"}}, "is a str, not a tensor"),
    ],
)
def test_damaged_checkpoints_are_one_line(change, says, model, tmp_path):
    path = tmp_path / "m.pt"
    save_checkpoint(path, model, "mlp", model.arguments, "digits")
    torch.save({**torch.load(path, weights_only=True), **change}, path)
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_loading_reads_the_file_once(model, tmp_path, monkeypatch):
    """What was hashed is what is loaded: no second opening between which the file could change."""
    path = tmp_path / "m.pt"
    save_checkpoint(path, model, "mlp", model.arguments, "digits")
    opened = []
    real = io.open

    def counting(file, *args, **kwargs):
        opened.append(str(file))
        return real(file, *args, **kwargs)

    monkeypatch.setattr(io, "open", counting)
    monkeypatch.setattr(builtins, "open", counting)
    load_model(path)
    assert opened.count(str(path)) == 1


def test_the_same_training_gives_the_same_bytes_whatever_the_file_is_called(tmp_path):
    """Its SHA-256 is part of the identity of every task: another name must not make another model of it."""
    files = [tmp_path / name for name in ("a.pt", "another name.pt", "c")]
    for i, path in enumerate(files):
        network = build("lenet5", channels=1, size=28)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(0.25)
        # equal texts that are one object, or two
        words = ["lenet5", "lenet5"] if i else ["lenet5", "".join(["lenet", "5"])]
        save_checkpoint(path, network, words[1], network.arguments, "digits", {"words": words})
    assert len({path.read_bytes() for path in files}) == 1


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def everywhere(times: int) -> list:
    """A list of two lists that are one: written out, it has 2 ** times of them."""
    value: list = []
    for _ in range(times):
        value = [value, value]
    return value


@pytest.mark.parametrize("value", [nested(70), nested(250), everywhere(40)], ids=["70", "250", "shared"])
@pytest.mark.parametrize("field", ["arguments", "format_version", "notes", "data"])
def test_deeply_nested_fields_are_one_line(field, value, model, tmp_path):
    save_checkpoint(tmp_path / "good.pt", model, "mlp", model.arguments, "digits")
    content = torch.load(tmp_path / "good.pt", weights_only=True)
    torch.save({**content, field: {"hidden": value}}, tmp_path / "bad.pt")
    with pytest.raises(InputError, match=r"nested too deeply|more than 1000000 lists") as caught:
        load_model(tmp_path / "bad.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("network", "arguments", "says"),
    [
        ("mlp", {"hidden": [30000, 30000]}, "of another shape"),
        ("mlp", {"inputs": 10**6, "hidden": [10**6, 10**6]}, "of another shape"),
        ("mlp", {"hidden": [10**9]}, "of another shape"),
        ("mlp", {"inputs": 10**30}, "make no network 'mlp'"),
        ("mlp", {"name": "x"}, "TypeError|no argument 'name'"),
        ("lenet5", {"channels": 10**9}, "missing"),
        ("vgg-11", {"classes": 10**12}, "missing"),
        ("coded", {"codes": 5}, "make no network 'coded'"),
        ("coded", {"codes": ("01", "10"), "arguments": 5}, "make no network 'coded'"),
        ("averaged", {"arguments": 5}, "make no network 'averaged'"),
        ("averaged", {"copies": 10**12}, "missing|of another shape"),
    ],
)
def test_what_a_checkpoint_claims_is_compared_before_it_is_allocated(
    network, arguments, says, model, tmp_path
):
    path = tmp_path / "m.pt"
    save_checkpoint(path, model, "mlp", model.arguments, "digits")
    torch.save({**torch.load(path, weights_only=True), "network": network, "arguments": arguments}, path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=says) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_its_shapes_on_the_meta_device(name):
    arguments = {"codes": ("0011", "1100")} if name == "coded" else {}
    with torch.device("meta"), _Undrawn():
        shapes = {n: v.shape for n, v in build(name, **arguments).state_dict().items()}
    if name not in ("preact-resnet-152", "preact-resnet-50", "vgg-11"):  # the slow ones
        assert shapes == {n: v.shape for n, v in build(name, **arguments).state_dict().items()}
    assert shapes
