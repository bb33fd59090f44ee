"""Tables of weights as training frameworks leave them, and tensors that are no weights."""

import pytest
import torch
from helpers import archive_files as files
from helpers.analog_models import numbers
from torch import nn
from torch.nn.utils import parametrizations, prune

from crossbar_sim import Hardware, InputError
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.files.checkpoint import save_checkpoint
from crossbar_sim.nn.files.loading import load_model
from crossbar_sim.nn.files.state_dict import check_model, fill
from crossbar_sim.nn.files.weight_tables import chosen, tables
from crossbar_sim.nn.networks import MLP, LeNet5


class WithBuffer(nn.Module):
    """x @ w, shifted by the finite values of a buffer."""

    def __init__(self, buffer: torch.Tensor, persistent: bool = True) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.register_buffer("mask", buffer, persistent)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) + torch.nan_to_num(self.mask.real, neginf=0.0).sum()


def causal() -> torch.Tensor:
    return torch.triu(torch.full((5, 5), float("-inf")), 1)


def rotary() -> torch.Tensor:
    return torch.polar(torch.ones(6), torch.arange(6.0))


@pytest.mark.parametrize("buffer", [causal(), rotary()], ids=["-inf", "complex"])
def test_a_buffer_may_be_a_mask_or_complex(buffer, tmp_path):
    model, x = WithBuffer(buffer), torch.ones(2, 4)
    other = WithBuffer(torch.zeros_like(buffer))
    assert fill(other, model.state_dict(), "it") == ()
    assert torch.equal(other.mask, buffer)
    check_model(WithBuffer(buffer, persistent=False))
    path = tmp_path / "m.pt2"
    path.write_bytes(files.exported(model, x))
    analog = to_analog(load_model(path).module, Hardware())
    with torch.no_grad():
        torch.testing.assert_close(analog(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "buffer", [torch.tensor([1.0, float("nan")]), torch.tensor([complex(0, float("nan")), 1])]
)
def test_a_buffer_is_never_nan(buffer):
    with pytest.raises(InputError, match="mask has 1 of 2 values that are NaN: training diverged"):
        check_model(WithBuffer(buffer))
    with pytest.raises(InputError, match="mask has 1 of 2 values"):
        fill(WithBuffer(torch.zeros_like(buffer)), WithBuffer(buffer).state_dict(), "it")


def test_statistics_of_a_normalisation_are_finite():
    model = nn.BatchNorm1d(3)
    model.running_var[1] = float("inf")
    with pytest.raises(InputError, match="running_var has 1 of 3 values that are NaN or infinite"):
        check_model(model)


def test_a_complex_buffer_does_not_lose_its_imaginary_part_in_a_real_one():
    with pytest.raises(InputError, match="mask is complex in the file and real in it"):
        fill(WithBuffer(torch.zeros(6)), WithBuffer(rotary()).state_dict(), "it")


def test_a_complex_parameter_is_no_conductance():
    model = nn.Linear(2, 2, dtype=torch.complex64)
    with pytest.raises(InputError, match="weight is complex"):
        fill(model, model.state_dict(), "it")


def test_a_network_without_shapes_or_values_is_refused():
    state = nn.Linear(3, 2).state_dict()
    with pytest.raises(InputError, match="weight of it is on the meta device"):
        fill(nn.Linear(3, 2, device="meta"), state, "it")
    with pytest.raises(InputError, match="has no shape yet"):
        check_model(nn.LazyLinear(2))


# Names


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def filled(content: object) -> tuple[nn.Module, tuple[str, ...]]:
    model, found = net(), tables(content)
    key, notes = chosen(content, found, model.state_dict())
    return model, notes + fill(model, found[key], "it")


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    ("wrap", "says"),
    [
        (lambda s: {"state_dict": prefixed("model.", s), "epoch": 3}, ["begin with 'model.'"]),
        (lambda s: prefixed("net.body.", s), ["begin with 'net.body.'"]),
        (lambda s: {"n_averaged": torch.tensor(4), **prefixed("module.", s)}, []),
        (lambda s: {"epoch": 3, "net": s, "optimizer": {"state": {}}}, ["those under 'net'"]),
        (lambda s: {"net": prefixed("model.", s), "epoch": 3}, ["those under 'net'", "begin with 'model.'"]),
        (lambda s: {"model_state_dict": s, "state_dict": {}}, []),
        (lambda s: {"state_dict": {"lr": 0.1}, "model": s}, []),
    ],
)
def test_weights_under_other_names_are_found(wrap, says):
    state = net().state_dict()
    model, notes = filled(wrap(state))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert len(notes) == len(says)
    assert all(part in note for part, note in zip(says, notes, strict=True))


def test_weights_that_are_not_the_only_ones_are_named():
    state = net().state_dict()
    more = {"loss.weight": torch.ones(2), **prefixed("model.", state)}
    with pytest.raises(
        InputError, match=r"1 of the 5 names are others \(loss\.weight\).* choose with --weights model"
    ):
        filled(more)
    with pytest.raises(InputError, match="1 unexpected"):
        filled({"n_averaged": torch.tensor(4), **state})


@pytest.mark.parametrize(("name", "model"), [("mlp", MLP(6, (5,), 3)), ("lenet5", LeNet5(3, 12, 4))])
def test_our_networks_are_inferred_behind_a_prefix(name, model, tmp_path):
    torch.save({"state_dict": prefixed("model.", model.state_dict())}, tmp_path / "m.ckpt")
    loaded = load_model(tmp_path / "m.ckpt", arch=name)
    assert "'model.'" in loaded.notes[0]
    assert all(torch.equal(v, model.state_dict()[n]) for n, v in loaded.module.state_dict().items())


# Extra state


class Gain(nn.Module):
    def __init__(self, gain: float, kind: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.fc, self.gain, self.kind = nn.Linear(3, 2), gain, kind

    def get_extra_state(self) -> torch.Tensor:
        return torch.tensor(self.gain, dtype=self.kind)

    def set_extra_state(self, state: torch.Tensor) -> None:
        if state.numel() > 1:
            raise ValueError("one gain")
        self.gain = float(state)


def test_extra_state_is_handed_to_its_module():
    state = nn.Sequential(Gain(7.0, torch.float64)).state_dict()
    model = nn.Sequential(Gain(1.0))
    assert fill(model, state, "it") == ("0._extra_state was given to Gain.set_extra_state",)
    assert model[0].gain == 7.0
    state["0._extra_state"] = torch.ones(2)
    with pytest.raises(InputError, match=r"set_extra_state refuses .*ValueError: one gain"):
        fill(model, state, "it")


def test_extra_state_of_bytes_may_be_a_pickle_and_is_left():
    state = Gain(7.0).state_dict()
    for own, given in ((torch.uint8, state), (torch.float32, Gain(7, torch.uint8).state_dict())):
        model = Gain(1, own)
        (note,) = fill(model, given, "it")
        assert "may be code" in note
        assert model.gain == 1


# What torch's own strict load takes gives torch's own numbers


class OldNorm(nn.Module):
    """Files before version 3 kept the variance with eps in it: corrected in loading, by the version."""

    _version, eps = 3, 0.1

    def __init__(self):
        super().__init__()
        self.register_buffer("running_var", torch.ones(4))

    def forward(self, x):
        return x * (self.running_var + self.eps).rsqrt()

    def _load_from_state_dict(self, state, prefix, meta, *rest):
        if (meta.get("version") or 0) < 3:
            state[prefix + "running_var"] = state[prefix + "running_var"] - self.eps
        super()._load_from_state_dict(state, prefix, meta, *rest)


class InPlace(OldNorm):
    """The same, by changing the file's tensor itself."""

    def _load_from_state_dict(self, state, prefix, meta, *rest):
        if (meta.get("version") or 0) < 3:
            state[prefix + "running_var"] -= self.eps
        nn.Module._load_from_state_dict(self, state, prefix, meta, *rest)


class Renaming(nn.Module):
    """A hook before loading gives the names of an older version their new ones, and turns the matrix."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.register_load_state_dict_pre_hook(self.rename)

    @staticmethod
    def rename(module, state, prefix, *rest):
        for name in [n for n in state if n.startswith(f"{prefix}fc.")]:
            value = state.pop(name)
            state[name.replace("fc.", "head.")] = value.T if value.ndim == 2 else value

    def forward(self, x):
        return self.head(x)


class Afterwards(nn.Module):
    """A hook after loading computes with what was loaded."""

    def __init__(self):
        super().__init__()
        self.fc, self.scale = nn.Linear(4, 2), 1.0
        self.register_load_state_dict_post_hook(
            lambda m, keys: setattr(m, "scale", float(m.fc.weight.detach().abs().max()))
        )

    def forward(self, x):
        return self.fc(x) / self.scale


class Own(nn.Module):
    """A load_state_dict of its own: other names, halved weights."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def load_state_dict(self, state, strict=True):
        return super().load_state_dict({f"fc.{n}": v / 2 for n, v in state.items()}, strict)

    def forward(self, x):
        return self.fc(x)


class Scalar(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.gain = nn.Linear(4, 2), nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.fc(x) * self.gain


class Kept(nn.Module):
    """Extra state that is a dict of plain values."""

    def __init__(self):
        super().__init__()
        self.fc, self.about = nn.Linear(4, 2), {"gain": 1.0}

    def get_extra_state(self):
        return self.about

    def set_extra_state(self, about):
        self.about = about

    def forward(self, x):
        return self.fc(x) * self.about["gain"]


class InModule(nn.Module):
    """A part is called as a wrapper's would be."""

    def __init__(self):
        super().__init__()
        self.module = nn.Linear(4, 2)

    def forward(self, x):
        return self.module(x)


def old_batch_norm():
    state = dict(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).state_dict())
    del state["1.num_batches_tracked"]
    return state


def scalar_of_torch_0_3():
    return {**Scalar().state_dict(), "gain": torch.tensor([3.0])}


def about(gain):
    model = Kept()
    model.about = {"gain": gain}
    return model.state_dict()


TAKEN = {
    "version by metadata": (lambda: nn.Sequential(nn.Linear(4, 4), OldNorm()), lambda n: n().state_dict()),
    "version without metadata": (lambda: nn.Sequential(nn.Linear(4, 4), OldNorm()), lambda n: dict(n().state_dict())),
    "changed in place": (lambda: nn.Sequential(nn.Linear(4, 4), InPlace()), lambda n: dict(n().state_dict())),
    "renamed before": (Renaming, lambda n: {"fc.weight": numbers(4, 2), "fc.bias": numbers(2)}),
    "computed after": (Afterwards, lambda n: n().state_dict()),
    "its own load_state_dict": (Own, lambda n: nn.Linear(4, 2).state_dict()),
    "1 element for 0 dimensions": (Scalar, lambda n: scalar_of_torch_0_3()),
    "extra state of a dict": (Kept, lambda n: about(5.0)),
    "a part called module": (InModule, lambda n: n().state_dict()),
    "averaged": (lambda: torch.optim.swa_utils.AveragedModel(nn.Linear(4, 2)), lambda n: n().state_dict()),
    "no num_batches_tracked": (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), lambda n: old_batch_norm()
    ),
    "weight_g and weight_v": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3))),
        lambda n: nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3))).state_dict(),
    ),
    "lazy": (
        lambda: nn.Sequential(nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.LazyLinear(2)),
        lambda n: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)).state_dict(),
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("wrap", [False, True], ids=["as saved", "behind module."])
@pytest.mark.parametrize("name", TAKEN)
def test_what_torch_loads_gives_torchs_numbers(name, wrap, tmp_path, monkeypatch):
    make, saved = TAKEN[name]
    state = saved(make)
    torch.save(state, tmp_path / "m.pth")
    right, x = make(), numbers(5, 4)
    right.load_state_dict(torch.load(tmp_path / "m.pth"), strict=True)
    if wrap:
        versions = getattr(state, "_metadata", None)
        state = type(state)((f"module.{n}", v) for n, v in state.items())
        if versions is not None:
            state._metadata = {f"module.{n}".rstrip("."): about for n, about in versions.items()}
        torch.save(state, tmp_path / "m.pth")
    monkeypatch.setattr("crossbar_sim.nn.files.loading.build_architecture", lambda *_: make())
    module = load_model(tmp_path / "m.pth", "a:net").module
    torch.testing.assert_close(module(x), right.eval()(x), rtol=0, atol=0)
    if name != "weight_g and weight_v":  # which stay parametrised, and are on no array
        torch.testing.assert_close(to_analog(module, Hardware())(x), right(x), rtol=1e-4, atol=1e-5)
    assert not any(type(m).__name__.startswith("Lazy") for m in module.modules())


# What torch refuses, and the network itself can complete


class Tied(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.wte, self.lm_head = nn.Embedding(7, 3), nn.Linear(3, 7, bias=False)
        self.lm_head.weight = self.wte.weight if how == "one" else nn.Parameter(self.wte.weight.data)


@pytest.mark.parametrize("how", ["one", "memory"])
@pytest.mark.parametrize("lost", ["lm_head.weight", "wte.weight"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_tied_weight_is_there_under_its_other_name(how, lost, prefix):
    table = Tied(how).state_dict()
    value = table.pop(lost)
    model = Tied(how)
    notes = fill(model, prefixed(prefix, table), "it")
    assert torch.equal(model.wte.weight, value)
    assert torch.equal(model.lm_head.weight, value)
    assert any("same tensor" in note for note in notes)
    with pytest.raises(InputError, match="missing"):
        fill(nn.Sequential(nn.Linear(3, 7), nn.Linear(3, 7)), {f"0.{n}": value for n in ("weight",)}, "it")


def test_tied_weights_that_differ_in_the_file_are_named():
    table = Tied("one").state_dict()
    table["lm_head.weight"] = table["lm_head.weight"] + 1
    model = Tied("one")
    (note,) = fill(model, table, "it")
    assert "wte.weight and lm_head.weight differ in the file" in note
    assert torch.equal(model.wte.weight, table["lm_head.weight"])


def in_parts():
    pruned = nn.Sequential(nn.Linear(5, 4))
    prune.l1_unstructured(pruned[0], "weight", 0.5)
    prune.random_unstructured(pruned[0], "bias", 0.5)
    yield "pruned", pruned, nn.Sequential(nn.Linear(5, 4))
    for name, wrap in (
        ("weight_norm of old", nn.utils.weight_norm), ("spectral_norm of old", nn.utils.spectral_norm),
        ("weight_norm", parametrizations.weight_norm), ("spectral_norm", parametrizations.spectral_norm),
    ):  # fmt: skip
        for made in (
            lambda: nn.Linear(5, 4),
            lambda: nn.Conv2d(5, 4, 3),
            lambda: nn.ConvTranspose2d(5, 5, 3),
        ):
            yield f"{name} of {type(made()).__name__}", nn.Sequential(wrap(made())), nn.Sequential(made())
    whole = nn.utils.weight_norm(nn.Linear(5, 4), dim=None)
    yield "weight_norm of all", nn.Sequential(whole), nn.Sequential(nn.Linear(5, 4))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weights_saved_in_parts_are_put_together():
    x = {2: numbers(3, 5), 4: numbers(3, 5, 6, 6)}
    for name, saved, model in in_parts():
        saved.eval()
        given = x[2 if isinstance(model[0], nn.Linear) else 4]
        right = saved(given)
        notes = fill(model, saved.state_dict(), "it")
        torch.testing.assert_close(model(given), right, rtol=0, atol=0, msg=name)
        assert "0.weight was computed from the parts" in notes[0], name


def test_a_buffer_that_the_network_computes_itself_may_be_in_the_file():
    mask = causal()
    saved, model = WithBuffer(mask), WithBuffer(mask.clone(), persistent=False)
    (note,) = fill(model, saved.state_dict(), "it")
    assert "mask of the file is what the network computes itself" in note
    saved.mask[0, 0] = 3.0
    with pytest.raises(InputError, match=r"1 unexpected \(mask\)"):
        fill(model, saved.state_dict(), "it")


def test_a_network_that_ignores_what_is_missing_is_named():
    class Lenient(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

        def load_state_dict(self, state, strict=True):
            return super().load_state_dict(state, strict=False)

    table = {n: v for n, v in Lenient().state_dict().items() if "head" not in n}
    (note,) = fill(Lenient(), table, "it")
    assert "leaves 2 parameters as the network initialises them (head.weight, head.bias)" in note


@pytest.mark.parametrize("wrap", [
    lambda n: f"module.{n}", lambda n: f"_orig_mod.{n}", lambda n: f"module._orig_mod.{n}",
    lambda n: f"_fsdp_wrapped_module.{n}", lambda n: n.replace(".", "._orig_mod.", 1),
    lambda n: f"module.{n.replace('.', '._checkpoint_wrapped_module.', 1)}",
])  # fmt: skip
def test_names_of_wrappers_are_taken_off_wherever_they_are(wrap):
    table, model = net().state_dict(), net()
    assert fill(model, {wrap(name): value for name, value in table.items()}, "it") == ()
    assert all(torch.equal(value, table[name]) for name, value in model.state_dict().items())


def test_a_factory_that_wraps_its_network_takes_the_networks_file():
    model = nn.DataParallel(net())
    table = net().state_dict()
    assert fill(model, table, "it") == ()
    assert torch.equal(model.state_dict()["module.0.weight"], table["0.weight"])


# Raw and averaged weights in one file


def sets():
    raw = net().state_dict()
    return raw, {name: value + 1 for name, value in raw.items()}


PAIRS = [
    ("state_dict", "state_dict_ema"), ("model", "ema"), ("params", "params_ema"), ("model", "model_ema"),
    ("state_dict", "ema_state_dict"), ("module", "averaged"), ("state_dict", "swa_state_dict"),
    ("state_dict", "current_model_state"), ("net", "teacher"), ("model", "best_model"),
]  # fmt: skip


@pytest.fixture
def built(monkeypatch):
    monkeypatch.setattr("crossbar_sim.nn.files.loading.build_architecture", lambda *_: net())


@pytest.mark.parametrize(("first", "second"), PAIRS)
@pytest.mark.parametrize("nested", [False, True], ids=["side by side", "below module"])
def test_of_two_sets_of_weights_one_is_chosen(first, second, nested, built, tmp_path):
    raw, averaged = sets()
    inner = {"module": averaged, "updates": 7} if nested else averaged
    path = tmp_path / "m.pth"
    torch.save(
        {"epoch": 3, first: raw, second: inner, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}, path
    )
    key = f"{second}.module" if nested else second
    with pytest.raises(InputError, match=rf"2 tables of weights \({first}, {key}\).*--weights {key}"):
        load_model(path, "a:net")
    for key, right in ((first, raw), (second, averaged)):
        model = load_model(path, "a:net", weights=key).module
        assert torch.equal(model[0].weight, right["0.weight"])
    with pytest.raises(InputError, match=f"no weights under 'other': it holds {first}"):
        load_model(path, "a:net", weights="other")


@pytest.mark.parametrize("second", ["ema", "model_ema", "ema_model.module"])
def test_two_sets_of_weights_in_one_table(second, built, tmp_path):
    raw, averaged = sets()
    path = tmp_path / "m.pth"
    torch.save({"state_dict": prefixed("model.", raw) | prefixed(f"{second}.", averaged)}, path)
    with pytest.raises(InputError, match=rf"--weights model or --weights {second}"):
        load_model(path, "a:net")
    assert torch.equal(load_model(path, "a:net", weights="model").module[0].weight, raw["0.weight"])
    assert torch.equal(load_model(path, "a:net", weights=second).module[0].weight, averaged["0.weight"])


def test_other_tables_need_no_choice(built, tmp_path):
    raw, averaged = sets()
    path, other = tmp_path / "m.pth", nn.Linear(9, 9).state_dict()
    for content, said in (
        ({"state_dict": raw, "model": {n: v.clone() for n, v in raw.items()}}, ()),
        (
            {"generator": raw, "discriminator": other},
            ("the weights are those under 'generator' in the file",),
        ),
        (
            {"discriminator": other, "generator": raw},
            ("the weights are those under 'generator' in the file",),
        ),
        ({"state_dict": raw, "criterion": {"weight": torch.ones(3)}}, ()),
        ({"model": raw, "optimizer": {"ema": averaged}}, ()),
        (
            {"model": prefixed("net.", raw), "loss": {"weight": torch.ones(3)}},
            ("the names of the weights begin",),
        ),
    ):
        torch.save(content, path)
        loaded = load_model(path, "a:net")
        assert torch.equal(loaded.module[0].weight, raw["0.weight"])
        assert len(loaded.notes) == len(said)
        assert all(part in note for part, note in zip(said, loaded.notes, strict=True))
    torch.save({"model": raw, "ema": {"decay": 0.9, "shadow_params": list(averaged.values())}}, path)
    assert "the file also has ema" in load_model(path, "a:net").notes[0]
    torch.save({**raw, "epoch": 3, "ema": averaged}, path)
    with pytest.raises(InputError, match=r"2 tables of weights \(ema, \.\)|2 tables of weights \(\., ema\)"):
        load_model(path, "a:net")
    assert torch.equal(load_model(path, "a:net", weights=".").module[0].weight, raw["0.weight"])


def test_a_choice_where_there_is_none_is_refused(tmp_path):
    path = tmp_path / "m.pt"
    save_checkpoint(path, MLP(6, (5,), 3), "mlp", MLP(6, (5,), 3).arguments, "digits")
    with pytest.raises(InputError, match="has one set of weights: leave out --weights ema"):
        load_model(path, weights="ema")


# Files that claim more than they hold


@pytest.mark.parametrize("share", ["strides", "names"])
def test_tensors_that_claim_more_than_the_file_holds(share, tmp_path):
    path = tmp_path / "m.pth"
    small = torch.zeros(1).expand(30000, 30000)
    table = {"fc1.weight": small, "fc1.bias": torch.zeros(1).expand(30000)}
    if share == "names":
        one = torch.zeros(2**20)
        table = {f"fc{i}.weight": one.view(1024, 1024) for i in range(1, 100)}
    torch.save(table, path)
    with pytest.raises(InputError, match=r"claim .* bytes and it has"):
        load_model(path, "mlp")
    save_checkpoint(path, MLP(6, (5,), 3), "mlp", MLP(6, (5,), 3).arguments, "digits")
    torch.save({**torch.load(path, weights_only=True), "state_dict": table}, path)
    with pytest.raises(InputError, match=r"claim .* bytes and it has"):
        load_model(path)
