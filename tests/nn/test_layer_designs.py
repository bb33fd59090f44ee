"""A design per layer acts on the layers that its patterns match, and on no other."""

import tomllib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from crossbar_sim import ADC, DAC, Hardware, InputError, LayerDesigns, LogNormalDrift, Offset, StuckCells
from crossbar_sim.crossbar.layer_designs import (
    Overrides,
    as_design,
    design_from_dict,
    from_json,
    override,
    to_json,
    to_toml,
)
from crossbar_sim.data import Split
from crossbar_sim.nn import calibrate_ranges, layers, seeded, set_hardware, to_analog
from crossbar_sim.nn.analog.chips import slots
from crossbar_sim.rng import Key
from crossbar_sim.robustness import deploy, robustness

BASE = Hardware(drift=LogNormalDrift(0.3), stuck=StuckCells(off=0.1), tile=(8, 8))
X = torch.linspace(-2, 2, 24 * 6).sin().reshape(24, 6)
FULL = Hardware(Offset(g_min=1e-6, g_max=5e-5), drift=LogNormalDrift(0.1))


class Net(nn.Module):
    """Three layers, and a normalisation that can be folded into the first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(6, 12), nn.BatchNorm1d(12)
        self.blocks = nn.ModuleList([nn.Linear(12, 12)])
        self.head = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks[0](self.norm(self.stem(x)).relu()).relu())


@pytest.fixture
def net() -> nn.Module:
    with seeded(Key(0)):
        made = Net()
        with torch.no_grad():
            made.norm.running_mean.uniform_(-1, 1)
            made.norm.weight.uniform_(0.5, 2)
    return made.eval()


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        slot.name: getattr(module, slot.weight).clone() for slot, module in slots(model) if not slot.ideal
    }


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], name: str) -> bool:
    return torch.equal(a[name], b[name])


def test_a_uniform_design_per_layer_gives_the_chips_of_the_plain_design(net: nn.Module) -> None:
    plain = to_analog(net, BASE, 5, 3)
    each = to_analog(net, {"stem": BASE, "blocks.*": {"copies": 1}, "*": BASE}, 5, 3)
    assert torch.equal(plain(X), each(X))
    assert all(same(weights(plain), weights(each), name) for name in weights(plain))


STAGES = {
    "sigma": 0.7, "drift": LogNormalDrift(0.5), "drift_per": "weight", "programming_sigma": 0.1, "stuck_on": 0.2,
    "stuck_off": 0.3, "stuck": None, "g_min": 1e-5, "levels": 4, "scale_per": "column", "clip": 90.0, "copies": 3,
    "wire_ohm": 20.0, "mapping": Offset(g_min=1e-6, g_max=1e-4),
}  # fmt: skip


@pytest.mark.parametrize("key", STAGES)
@pytest.mark.parametrize("layer", ["stem", "blocks.0"])
def test_an_override_changes_the_cells_of_its_layer_alone(net: nn.Module, layer: str, key: str) -> None:
    plain, own = (
        weights(to_analog(net, BASE, 2)),
        weights(to_analog(net, {layer: {key: STAGES[key]}, "*": BASE}, 2)),
    )
    changed = {name for name in plain if not same(plain, own, name)}
    assert changed == {f"{layer}.weight"}


READOUT = {
    "adc_bits": 3, "adc": ADC(4, range="max"), "dac_bits": 2, "dac": DAC(3), "read_noise_sigma": 0.2, "adc_range": 1e-5,
    "adc_per": "column", "tile": (4, 4),
}  # fmt: skip


@pytest.mark.parametrize("key", READOUT)
def test_an_override_changes_the_products_of_its_layer_alone(net: nn.Module, key: str) -> None:
    converting = replace(BASE, dac=DAC(6), adc=ADC(6, range="max"))

    def outputs(hardware: object) -> dict[str, torch.Tensor]:
        analog = to_analog(net, hardware, 2)  # type: ignore[arg-type]
        held = {"stem": X, "blocks.0": X.repeat(1, 2), "head": X.repeat(1, 2)}
        return {name: analog.get_submodule(name)(x) for name, x in held.items()}

    plain, own = outputs(converting), outputs({"blocks.*": {key: READOUT[key]}, "*": converting})
    assert {name for name in plain if not torch.equal(plain[name], own[name])} == {"blocks.0"}


@pytest.mark.parametrize(
    ("key", "value", "layer", "array"),
    [
        ("bias", "row", "head", "head.weight"),
        ("bias", "drifting", "head", "head.bias"),
        ("normalisation", "drifting", "norm", "norm.weight"),
        ("normalisation", "folded", "norm", "stem.weight"),
    ],
)
def test_choices_of_parameters_are_those_of_their_layer(
    net: nn.Module, key: str, value: str, layer: str, array: str
) -> None:
    plain = {slot.name: slot for slot, _ in slots(to_analog(net, BASE))}
    own = to_analog(net, {layer: {key: value}, "*": BASE})
    held = {slot.name: slot for slot, _ in slots(own)}
    before, after = plain.get(array), held[array]
    assert before is None or (after.bias, after.fold is None) != (before.bias, before.fold is None)
    ideal = Hardware()
    torch.testing.assert_close(to_analog(net, {layer: {key: value}, "*": ideal})(X), net(X))


def test_a_digital_layer_is_exact_and_the_others_are_as_before(net: nn.Module) -> None:
    plain, own = to_analog(net, BASE, 1), to_analog(net, {"stem": "digital", "*": BASE}, 1)
    assert torch.equal(own.stem.weight, net.stem.weight)
    assert "stem.weight" not in weights(own)
    assert all(same(weights(plain), weights(own), name) for name in weights(own))
    assert [layer.reason for layer in layers(own) if layer.name == "stem"] == ["digital by its design"]
    only = to_analog(net, {"head": BASE, "*": "digital"}, 1)
    assert set(weights(only)) == {"head.weight"}
    assert same(weights(only), weights(plain), "head.weight")


def test_programming_equals_the_core_with_the_design_of_each_layer(net: nn.Module) -> None:
    designs = LayerDesigns.of({"stem": {"levels": 8, "copies": 2}, "head": FULL, "*": BASE})
    analog = weights(to_analog(net, designs, 7, 2))
    for name in ("stem", "blocks.0", "head"):
        columns, own = net.get_submodule(name).weight.detach().numpy(), designs.at(name)
        assert own is not None
        expected = own.effective_weight(np.ascontiguousarray(columns), Key(7).fold(f"{name}.weight"), 2)
        assert np.array_equal(analog[f"{name}.weight"].detach().numpy(), expected)


def test_the_first_pattern_that_matches_counts_and_files_keep_the_order(net: nn.Module) -> None:
    designs = LayerDesigns.of(
        {"blocks.0,head": {"copies": 2, "adc_bits": 6, "wires": None}, "b*": FULL, "s*": "digital", "*": BASE}
    )
    assert [designs.at(n) and designs.at(n).mapping.copies for n in ("blocks.0", "blocks.1", "stem", "x")] == [
        2, 1, None, 1,
    ]  # fmt: skip
    assert from_json(to_json(designs), "text") == designs
    tables = design_from_dict(tomllib.loads(to_toml(designs)))[0]
    assert tables == designs
    assert isinstance(tables, LayerDesigns)
    assert tables.layers == designs.layers


def test_a_sweep_changes_the_drift_that_no_layer_sets_itself() -> None:
    designs = LayerDesigns.of(
        {"a": {"sigma": 0.1}, "b": {"copies": 2}, "c": Hardware(), "d": FULL, "*": BASE}
    )
    assert designs.own_drift == ("a", "d")
    for swept in (designs.at_sigma(0.5), designs.at_sigma(0.0).at_sigma(0.5)):
        sigmas = [swept.at(name).drift.sigma for name in "abcdx"]  # type: ignore[union-attr]
        assert sigmas == [0.1, 0.5, 0.5, 0.1, 0.5]
        assert swept.own_drift == ("a", "d")


def test_ranges_are_calibrated_with_the_converters_of_each_layer(net: nn.Module) -> None:
    fine = replace(BASE, stuck=None, adc=ADC(8), dac=DAC(8, range="calibrated"))
    ranges = [calibrate_ranges(net, design, X)[0].ranges for design in (fine, override(fine, tile=(4, 4)))]
    designs, reports = calibrate_ranges(net, LayerDesigns.of({"head": {"tile": (4, 4)}, "*": fine}), X)
    assert designs.ranges is not None
    assert len(reports) == 3
    first, second = (found.get("head.weight") for found in ranges if found is not None)
    assert first is not None
    assert second is not None
    assert first.output[0] != pytest.approx(second.output[0], rel=1e-3)
    for name, whole in (
        ("stem.weight", ranges[0]),
        ("blocks.0.weight", ranges[0]),
        ("head.weight", ranges[1]),
    ):
        assert whole is not None
        own, other = designs.ranges.get(name), whole.get(name)
        assert own is not None
        assert other is not None
        # tiles of other layers change the last bit of what arrives
        assert (own.input, *own.output) == pytest.approx((other.input, *other.output), rel=1e-5)
    partly, _ = calibrate_ranges(net, LayerDesigns.of({"head": {"dac": None, "adc": None}, "*": fine}), X)
    assert partly.ranges is not None
    assert [name for name, _ in partly.ranges.layers] == ["blocks.0.weight", "stem.weight"]
    again = design_from_dict(designs.to_dict())[0]
    assert again == designs
    assert torch.equal(to_analog(net, again)(X), to_analog(net, designs)(X))


def test_the_report_says_which_layer_has_which_design(net: nn.Module) -> None:
    found = deploy(
        net, X, None, {"stem": "digital", "head": {"copies": 4}, "*": BASE}, chips=2, sensitivity_chips=1
    )
    rows = {row["name"]: row for row in found.as_dict()["layers"]}
    assert rows["stem"]["design"] == {"pattern": "stem", "values": "digital"}
    assert not rows["stem"]["analog"]
    assert rows["head"]["design"] == {"pattern": "head", "values": "copies=4"}
    assert rows["blocks.0"]["design"]["pattern"] == ""
    assert rows["head"]["cells"] == 4 * 2 * 12 * 4
    assert rows["blocks.0"]["cells"] == 2 * 12 * 12
    assert found.as_dict()["hardware"]["layers"] == {"stem": {"digital": True}, "head": {"copies": 4}}
    plain = deploy(net, X, None, BASE, chips=2, sensitivity_chips=1).as_dict()
    assert "layers" not in plain["hardware"]
    assert "design" not in plain["layers"][0]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6, False), nn.Linear(6, 6, False)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x))


def test_layers_that_share_cells_share_their_design() -> None:
    with pytest.raises(InputError, match=r"a and b share a\.weight, which is one set of cells"):
        to_analog(Tied(), {"b": {"copies": 2}, "*": BASE})
    to_analog(Tied(), {"a,b": {"copies": 2}, "*": BASE})
    to_analog(Tied(), {"b": "digital", "*": BASE})


BAD = [
    ({"stm": "digital", "*": BASE}, "the layer 'stm' is unknown: did you mean 'stem'"),
    ({"head": "digtal", "*": BASE}, "the design 'digtal' is unknown: did you mean 'digital'"),
    ({"head": {"adc_bit": 6}, "*": BASE}, "the override 'adc_bit' is unknown: did you mean 'adc_bits'"),
    ({"head": {"sigma": 0.1, "drift": None}, "*": BASE}, "sigma and drift both set the drift"),
    ({"head": BASE}, "needs the pattern '\\*'"),
    ({"*": BASE, "head": BASE}, "put '\\*' last"),
    ({"head": {"copies": 2}, "*": "digital"}, "gives overrides, and the default design"),
    ({"b*": FULL, "blocks.0": FULL, "*": BASE}, "'blocks.0' has no effect: blocks.0 is matched by 'b\\*'"),
    ({"head": {}, "*": BASE}, "no value is given"),
    ({"head": 6, "*": BASE}, "6 is not a design"),
    ({"head": {"digital": True, "copies": 2}, "*": BASE}, "stands alone"),
    ({"head": {"ranges": None}, "*": BASE}, "ranges are calibrated for all layers together"),
    ({"a,head": {"levels": 1}, "*": BASE}, "levels=1"),
    ({"stem,head": "digital", "stem": FULL, "*": BASE}, "'stem' is given twice"),
    ({"*": "digital"}, "no layer to map: stem: digital by its design"),
]


def test_the_default_design_may_be_that_of_no_layer() -> None:
    LayerDesigns(BASE, (("stem", FULL), ("*", replace(BASE, drift=None)))).check(["stem"])
    for chosen in (Overrides((("levels", 4),)), FULL):
        with pytest.raises(InputError, match="the pattern '\\*' has no effect: stem is matched by 'stem'"):
            LayerDesigns(BASE, (("stem", FULL), ("*", chosen))).check(["stem"])


@pytest.mark.parametrize(("table", "sentence"), BAD)
def test_what_cannot_act_is_refused(net: nn.Module, table: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        to_analog(net, table)


def test_a_design_that_acts_on_nothing_is_warned_of(net: nn.Module) -> None:
    with pytest.warns(UserWarning, match="the design of 'norm' has no effect"):
        to_analog(net, {"norm": {"copies": 2}, "*": BASE})
    with pytest.warns(UserWarning, match="the normalisation of 'head' has no effect"):
        to_analog(net, {"head": {"normalisation": "drifting"}, "*": BASE})


def test_another_design_may_not_map_other_parameters(net: nn.Module) -> None:
    analog = to_analog(net, {"head": {"copies": 2}, "*": BASE})
    with pytest.raises(InputError, match="head: digital where the model was mapped with it on arrays"):
        set_hardware(analog, LayerDesigns.of({"head": "digital", "*": BASE}))
    set_hardware(analog, {"head": {"copies": 3}, "*": BASE})
    with pytest.raises(InputError, match=r"expected a Hardware, or LayerDesigns.of"):
        calibrate_ranges(net, {"head": {"adc_bits": 6}, "*": BASE}, X)  # type: ignore[type-var]
    fresh = to_analog(net, {"head": {"copies": 3}, "*": BASE})
    assert torch.equal(analog(X), fresh(X))


def test_a_table_is_a_design_or_a_design_per_layer() -> None:
    assert as_design({"drift": {"kind": "lognormal", "sigma": 0.3}}) == Hardware(drift=LogNormalDrift(0.3))
    assert as_design({"other": "drifting"}) == Hardware(other="drifting")
    assert as_design({"other": "digital", "*": BASE}) == LayerDesigns(BASE, (("other", "digital"),))
    with pytest.raises(InputError, match="'drfit' is unknown: did you mean 'drift'"):
        as_design({"drfit": {"kind": "lognormal"}})
    with pytest.raises(InputError, match="a design per layer needs the pattern '\\*'"):
        as_design({"head": {"copies": 4}})
    with pytest.raises(InputError, match="it has a design per layer"):
        Hardware.from_dict({"layers": {"a": {"digital": True}}})


def test_a_chain_evaluated_quickly_has_the_designs_of_its_layers() -> None:
    with seeded(Key(1)):
        chain = nn.Sequential(
            nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)
        ).eval()
    designs = LayerDesigns.of({"0": {"levels": 4}, "2": Hardware(), "4": {"sigma": 0.9}, "*": BASE})
    with torch.no_grad():
        y = chain(X).argmax(1)
    found = robustness(chain, Split(X, y), designs, sigmas=[0.0, 0.4], chips=3, sensitivity_chips=0)
    for point in found.curve(found.labels[0]):
        for chip, value in enumerate(point.values):
            analog = to_analog(chain, designs.at_sigma(point.sigma), 0, chip)
            with torch.no_grad():
                assert value == pytest.approx(float((analog(X).argmax(1) == y).float().mean()))
