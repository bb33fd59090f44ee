"""A chip that is read from its file computes what the simulated one computes, bit for bit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.chip_files import export, fill, names, simulated_and_read, two_layers
from torch import nn

from crossbar_sim import (
    ADC,
    DAC,
    Differential,
    GaussianReadNoise,
    Hardware,
    InputError,
    LogNormalDrift,
    NormalShift,
    Offset,
    ProgrammingNoise,
    StuckCells,
    TelegraphNoise,
    Wires,
)
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog.chips import analog_state, remap_arrays, slots
from crossbar_sim.store import chip_layout, read_chip

DRIFT = LogNormalDrift(0.6)
ALL = Hardware(
    Offset(1e-6, 5e-5, levels=16, scale_per="column", clip=95.0, copies=2),
    drift=NormalShift(2e-6),
    programming=ProgrammingNoise(0.03),
    stuck=StuckCells(off=0.05, on=0.02),
    bias="row",
)
HARDWARE = {
    "ideal": Hardware(),
    "bayesft": Hardware.preset("bayesft", sigma=0.6),
    "one pass": Hardware(drift=DRIFT, drift_per="weight"),
    "both cells drift": Hardware(Differential(g_min=1e-6), drift=DRIFT),
    "offset": Hardware(Offset(), drift=DRIFT),
    "copies": Hardware(Differential(copies=3), drift=DRIFT),
    "offset copies": Hardware(Offset(copies=2), drift=DRIFT),
    "per column": Hardware(Differential(scale_per="column"), drift=DRIFT),
    "levels": Hardware(Differential(1e-6, 5e-5, levels=8), drift=DRIFT),
    "bias row": Hardware(drift=DRIFT, bias="row"),
    "drifting": Hardware(drift=DRIFT, bias="drifting", normalisation="drifting", other="drifting"),
    "folded": Hardware(drift=DRIFT, normalisation="folded", bias="row"),
    "noise and faults": Hardware(programming=ProgrammingNoise(0.1), stuck=StuckCells(0.1, 0.1)),
    "all": ALL,
    "two complement": Hardware(Offset(1e-6, 5e-5, levels=16, encoding="twos_complement"), drift=DRIFT),
}
SMALL = {"tile": (5, 4)}
TWO_STEPS = DAC(bits=5, slice_bits=2, signed="two-phase")
READ = {
    "wires": Hardware(Differential(1e-6), DRIFT, wires=Wires(50.0, 20.0), **SMALL),
    "wires of offset": Hardware(Offset(1e-6, copies=2), DRIFT, wires=Wires(50.0, 50.0, 10.0), bias="row", **SMALL),
    "wires per column": Hardware(Offset(scale_per="column"), DRIFT, wires=Wires(9.0, 9.0), bias="drifting", **SMALL),
    "slices": Hardware(Differential(0.0, levels=128, cell_bits=2, copies=2), DRIFT),
    "one slice": Hardware(Differential(1e-6, levels=100, cell_bits=7), DRIFT, drift_per="weight"),
    "slices of offset": Hardware(Offset(1e-6, levels=256, cell_bits=3), DRIFT, stuck=StuckCells(0.05, 0.05)),
    "wires of slices": Hardware(Differential(levels=16, cell_bits=1), DRIFT, wires=Wires(30.0, 30.0), **SMALL),
    "converters": Hardware(Differential(1e-6), DRIFT, dac=TWO_STEPS, adc=ADC(6, "max"), **SMALL),
    "columns": Hardware(Offset(1e-6), DRIFT, dac=DAC(bits=5), adc=ADC(6, 1e-4, "column"), bias="row", **SMALL),
    "mismatch": Hardware(drift=DRIFT, adc=ADC(None, 1e-3, gain_sigma=0.1, offset_sigma=0.1, share=2), **SMALL),
    "read noise": Hardware(Offset(1e-6, copies=2), DRIFT, read_noise=GaussianReadNoise(0.01), **SMALL),
    "telegraph": Hardware(drift=DRIFT, read_noise=TelegraphNoise(0.2, 0.3), adc=ADC(7, 1e-3), **SMALL),
    "everything": Hardware(
        Offset(1e-6, 6e-5, levels=64, cell_bits=2, scale_per="column", clip=95.0, encoding="twos_complement"),
        DRIFT, ProgrammingNoise(0.02), StuckCells(0.02, 0.02), wires=Wires(5.0, 5.0), dac=TWO_STEPS,
        adc=ADC(7, "granular", "column", share=2, encoding="flip", gain_sigma=0.01),
        read_noise=GaussianReadNoise(0.01, "g"), bias="row", **SMALL,
    ),
    "isaac": Hardware.preset("isaac", sigma=0.1),
}  # fmt: skip
HARDWARE |= READ


class Attention(nn.Module):
    def __init__(self, **more: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True, **more)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class SeparateAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, kdim=8, vdim=6, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x[..., :8], x[..., :6], need_weights=False)[0]


class Scaled(nn.Module):
    """A parameter of the model itself, without dimensions, and a layer in a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.block = nn.Sequential(nn.Linear(6, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x) * self.gain


def image(channels: int) -> torch.Tensor:
    return torch.arange(2 * channels * 36.0).reshape(2, channels, 6, 6).cos()


def rows(n: int) -> torch.Tensor:
    return torch.arange(4.0 * n).reshape(4, n).sin()


MODELS = {
    "linear": (two_layers, rows(7)),
    "root": (lambda: nn.Linear(7, 5), rows(7)),
    "root lstm": (lambda: nn.LSTM(6, 4, batch_first=True), torch.ones(2, 3, 6)),
    "conv and norm": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)), image(3)),
    "grouped": (lambda: nn.Conv2d(4, 8, 3, groups=2), image(4)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), image(4)),
    "lstm": (
        lambda: nn.ModuleDict({"lstm": nn.LSTM(6, 4, 2, batch_first=True, bidirectional=True)})["lstm"],
        torch.ones(2, 3, 6),
    ),
    "gru cell": (lambda: nn.GRUCell(6, 4), rows(6)),
    "attention": (Attention, torch.arange(72.0).reshape(2, 3, 12).cos()),
    "separate attention": (SeparateAttention, torch.arange(72.0).reshape(2, 3, 12).cos()),
    "scaled": (Scaled, rows(6)),
    "double": (lambda: nn.Linear(7, 5).double(), rows(7).double()),
    "no inputs": (lambda: nn.Sequential(nn.Linear(4, 0), nn.Linear(0, 3)), rows(4)),
}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("hardware", HARDWARE)
@pytest.mark.parametrize("model", MODELS)
def test_same_bits(model: str, hardware: str, tmp_path: Path) -> None:
    make, x = MODELS[model]
    design_ = HARDWARE[hardware]
    if model != "conv and norm" and design_.normalisation == "folded":
        design_ = replace(design_, normalisation="digital")
    simulated, read = simulated_and_read(fill(make()), design_, tmp_path / "chip.h5", x)
    assert len(simulated) > 1
    for a, b in zip(simulated, read, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("hardware", ["mismatch", "read noise", "everything"])
def test_noise_and_mismatch_are_those_of_the_files_chip(hardware: str, tmp_path: Path) -> None:
    """Whatever seed and chip the model was mapped with: the file is one chip, and names its random numbers."""
    design_ = HARDWARE[hardware]
    analog = to_analog(two_layers(), design_, 5, 3)
    path = export(analog, tmp_path / "chip.h5", design_, 5, 3)
    with torch.no_grad():
        simulated = analog(rows(7))
        other = to_analog(two_layers(), design_, 0, 0)
        assert not torch.equal(other(rows(7)), simulated)
        analog_state(other).set_maps(read_chip(path).maps())
        assert torch.equal(other(rows(7)), simulated)


def test_a_model_mapped_without_the_converters_of_its_file_is_warned_of(tmp_path: Path) -> None:
    design_ = HARDWARE["converters"]
    path = export(to_analog(two_layers(), design_), tmp_path / "chip.h5", design_)
    plain = to_analog(two_layers(), replace(design_, dac=None, adc=None))
    with pytest.warns(UserWarning, match=r"has dac, adc, and the model was mapped without"):
        analog_state(plain).set_maps(read_chip(path).maps())


def test_an_array_that_is_missing_computes_clean_beside_converters(tmp_path: Path) -> None:
    design_ = HARDWARE["converters"]
    path = export(to_analog(two_layers(), design_, only=["2"]), tmp_path / "chip.h5", design_)
    analog = to_analog(two_layers(), design_)
    analog_state(analog).set_maps(read_chip(path).maps())
    with torch.no_grad():
        assert torch.equal(analog[0](rows(7)), two_layers()[0](rows(7)))
        assert not torch.allclose(analog[2](rows(5)), two_layers()[2](rows(5)))


@pytest.mark.parametrize(
    "hardware",
    [
        Hardware(stuck=StuckCells(0.1, 0.1), **SMALL),
        Hardware(Offset(1e-6, copies=2), DRIFT, stuck=StuckCells(0.1, 0.1), bias="row", **SMALL),
        Hardware(Differential(scale_per="column"), DRIFT, stuck=StuckCells(0.1), wires=Wires(30.0, 30.0), **SMALL),
        replace(READ["converters"], stuck=StuckCells(0.1, 0.05)),
        replace(READ["everything"], stuck=StuckCells(0.1, 0.05)),
    ],
)  # fmt: skip
def test_a_remapped_chip_says_where_its_weights_lie(hardware: Hardware, tmp_path: Path) -> None:
    model = fill(nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(96, 5)))
    analog = to_analog(model, hardware, 5, 3)
    with torch.no_grad():
        plain = analog(image(4))
        remap_arrays(analog)
        chips.set_chip(analog, 3)
        simulated = analog(image(4))
        assert not torch.equal(plain, simulated)
        path = export(analog, tmp_path / "chip.h5", hardware, 5, 3)
        read = to_analog(model, hardware)
        analog_state(read).set_maps(read_chip(path).maps())
        assert torch.equal(read(image(4)), simulated)


def test_a_placement_that_is_none_is_refused(tmp_path: Path) -> None:
    import h5py

    hardware = Hardware(stuck=StuckCells(0.1, 0.1), **SMALL)
    analog = to_analog(two_layers(), hardware)
    remap_arrays(analog)
    path = export(analog, tmp_path / "chip.h5", hardware)
    weight = np.ones((5, 7), np.float32)
    for name, place, value, why in (
        ("word_lines", (0, 1, 0), 6, "once"), ("bit_lines", (0, 0, 1), 99, "once"),
        ("bit_lines", (1, 0, 0), 0, "once"), ("bit_lines", None, None, "go together"),
    ):  # fmt: skip
        bad = tmp_path / "bad.h5"
        bad.write_bytes(path.read_bytes())
        with h5py.File(bad, "a") as file:
            if place is None:
                del file[f"layers/0/{name}"]
            else:
                file[f"layers/0/{name}"][place] = value
        with pytest.raises(InputError, match=why):
            read_chip(bad).maps()("0.weight", weight)


def test_an_exported_program(tmp_path: Path) -> None:
    x = image(3)
    model = fill(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 5)))
    graph = torch.export.export(model, (x,)).module()
    simulated, read = simulated_and_read(graph, HARDWARE["bayesft"], tmp_path / "chip.h5", x)
    assert all(torch.equal(a, b) for a, b in zip(simulated, read, strict=True))


@pytest.mark.parametrize("mapping", [Differential(scale_per="column"), Offset(copies=2)])
@pytest.mark.parametrize("shape", [(300, 257), (3, 9000), (9000, 3)])
def test_many_pieces(shape: tuple[int, int], mapping: Differential, tmp_path: Path, monkeypatch) -> None:
    """With pieces of a few kilobytes: starts that are no multiple of 256, rows that are cut."""
    monkeypatch.setattr(chip_layout, "CELLS", 2048)
    monkeypatch.setattr(chip_layout, "_CHUNK", 512)
    monkeypatch.setattr("crossbar_sim.store.chip_layout.CELLS", 512)
    hardware = Hardware(mapping, drift=DRIFT, stuck=StuckCells(0.1))
    model = fill(nn.Linear(*shape, bias=False))
    simulated, read = simulated_and_read(model, hardware, tmp_path / "chip.h5", rows(shape[0]))
    assert torch.equal(simulated[1], read[1])


@pytest.mark.parametrize("shape", [(1, 1), (1, 10**6), (10**7, 3), (4096, 4096), (27, 64), (784, 193)])
def test_pieces_cover_a_plane_once(shape: tuple[int, int]) -> None:
    chunk = chip_layout.chunk_shape(*shape)
    assert chunk[0] * chunk[1] <= 1 << 16
    assert chunk[0] * chunk[1] >= min(1 << 12, shape[0] * shape[1])
    cells = 0
    for high, wide in chip_layout.runs(*shape):
        size = (high.stop - high.start) * (wide.stop - wide.start)
        assert size <= chip_layout.CELLS
        assert (high.start % chunk[0], wide.start % chunk[1]) == (0, 0)
        assert high == slice(0, shape[0]) or wide.stop == wide.start + 1
        cells += size
    assert cells == shape[0] * shape[1]


def test_stages_are_those_of_the_array(tmp_path: Path) -> None:
    """Every dataset holds what `Hardware.program` makes."""
    import h5py

    analog = to_analog(fill(nn.Sequential(nn.Linear(9, 6))), ALL, seed=2, chip=1)
    export(analog, tmp_path / "chip.h5", ALL, seed=2, chip=1)
    ((slot, module),) = slots(analog)
    w = slot.columns(module).detach().numpy().T
    array = ALL.program(w, analog_state(analog).key("0.weight"), 1)
    with h5py.File(tmp_path / "chip.h5") as file:
        group = file["layers/0"]
        for name, expected in (
            ("g_target", array.target),
            ("g_programmed", array.programmed),
            ("g_drifted", array.drifted),
            ("faults", array.faults),
        ):
            assert np.array_equal(group[name][:], expected), name
            assert group[name].dtype == expected.dtype
        assert np.array_equal(group.attrs["scale"], array.scale)


def test_stages_without_effect_are_one_dataset(tmp_path: Path) -> None:
    import h5py

    analog = to_analog(two_layers(), Hardware())
    with h5py.File(export(analog, tmp_path / "chip.h5", Hardware())) as file:
        group = file["layers/0"]
        assert group["g_target"] == group["g_programmed"] == group["g_drifted"]
        assert not group["faults"][:].any()
        assert group["faults"].id.get_storage_size() == 0


def test_shared_weights_are_written_once(tmp_path: Path) -> None:
    first = nn.Linear(4, 4)
    second = nn.Linear(4, 4)
    second.weight = first.weight
    model = fill(nn.Sequential(first, second))
    hardware = HARDWARE["bayesft"]
    simulated, read = simulated_and_read(model, hardware, tmp_path / "chip.h5", rows(4))
    assert all(torch.equal(a, b) for a, b in zip(simulated, read, strict=True))
    by_row = HARDWARE["bias row"]
    with pytest.raises(InputError, match=r"0\.weight of 1 and 0\.weight of 0 share a name"):
        export(to_analog(model, by_row), tmp_path / "other.h5", by_row)


def test_arrays_that_are_missing_compute_clean(tmp_path: Path) -> None:
    """A file of one layer of two: the other computes with its clean weights."""
    hardware = HARDWARE["one pass"]
    part = to_analog(two_layers(), hardware, only=["2"])
    chip = read_chip(export(part, tmp_path / "chip.h5", hardware))
    whole = to_analog(two_layers(), hardware)
    assert chip.check_against(names(whole)) == (("0.weight",), ())
    assert read_chip(tmp_path / "chip.h5").check_against(["2.weight"]) == ((), ())
    analog_state(whole).set_maps(chip.maps())
    with torch.no_grad():
        assert torch.equal(whole[0].weight, two_layers()[0].weight)
        assert not torch.equal(whole[2].weight, two_layers()[2].weight)
    both = read_chip(export(to_analog(two_layers(), hardware), tmp_path / "both.h5", hardware))
    assert both.check_against(names(part)) == ((), ("0.weight",))


def test_names_cannot_collide() -> None:
    """A parameter called like a dataset, slashes and percent signs in names, one part or two."""
    cases = [
        "a.weight", "a.b.weight", "a.g_drifted", "a.%67_drifted", "a.faults", "a/b.weight", "a.b", "b", "a",
        "a%2Fb.weight", "a.weight_ih_l0", "weight", "g_drifted",
        "a.g_drifted.weight", "..weight", "\0.weight",
    ]  # fmt: skip
    groups = [chip_layout.group_of(name) for name in cases]
    # "a" alone is a parameter of the model itself, and no model has a layer of that name beside it.
    assert chip_layout.group_of("a") == chip_layout.group_of("a.weight") == ("a",)
    paths = [chip_layout.path_of(g) for g in groups if g != ("a",)]
    assert len(set(paths)) == len(paths)
    assert not any(part in (*chip_layout.STAGES, "faults") for g in groups for part in g[1:])
    assert not any("\0" in part or "/" in part or part in ("", ".") for g in groups for part in g)
    for name in ("a.weight", "a.b.weight", "a.g_drifted", "a/b%.weight", "a.b"):
        assert chip_layout.name_of(chip_layout.group_of(name)) == name
