"""Files of a lab: g_drifted alone suffices, units and types are theirs."""

import itertools
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from helpers.chip_files import names, two_layers

from crossbar_sim import Differential, Hardware, InputError, Key, LogNormalDrift, Offset, Wires
from crossbar_sim.crossbar.array import read_weight
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.analog.chips import analog_state
from crossbar_sim.store import describe_chip, read_chip
from crossbar_sim.validate import UnitWarning

WINDOW = Differential(2e-6, 8e-5)
W = (np.sin(np.arange(35.0)) / 3).reshape(5, 7).astype(np.float32)


def measured(planes: int, columns: int) -> np.ndarray:
    g = np.cos(np.arange(planes * 7.0 * columns)) ** 2 * 6e-5 + 1e-6
    return g.reshape(planes, 7, columns).astype(np.float32)


def write(path: Path, g: np.ndarray, units: str = "S", **more: object) -> Path:
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("layers/0/g_drifted", data=g, **more)
        dataset.attrs["units"] = units
    return path


def weights(path: Path, hardware: Hardware | None = None) -> np.ndarray:
    found = read_chip(path).maps(hardware)("0.weight", W)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("mapping", "columns"),
    [
        (WINDOW, 5),
        (Differential(2e-6, 8e-5, scale_per="column", clip=90.0, copies=2), 5),
        (Offset(2e-6, 8e-5), 6),
        (Offset(2e-6, 8e-5, copies=2), 6),
    ],
)
def test_by_the_hardware(mapping: Differential, columns: int, tmp_path: Path) -> None:
    g = measured(mapping.planes, columns)
    found = weights(write(tmp_path / "lab.h5", g), Hardware(mapping, drift=LogNormalDrift(1.0)))
    assert np.array_equal(found, read_weight(g, mapping, mapping.scale(W)).T)


def test_by_the_number_of_planes(tmp_path: Path) -> None:
    """Hardware of another mapping gives its window; one plane is read against the last column."""
    offset = Offset(2e-6, 8e-5)
    found = weights(write(tmp_path / "lab.h5", measured(1, 6)), Hardware(WINDOW))
    assert np.array_equal(found, read_weight(measured(1, 6), offset, offset.scale(W)).T)
    found = weights(write(tmp_path / "lab.h5", measured(2, 5)), Hardware(offset))
    assert np.array_equal(found, read_weight(measured(2, 5), WINDOW, WINDOW.scale(W)).T)


@pytest.mark.parametrize("units", ["uS", "µS", "μS"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8"])
def test_units_and_types(units: str, dtype: str, tmp_path: Path) -> None:
    g = measured(2, 5).astype(np.float64)
    path = write(tmp_path / "lab.h5", (g * 1e6).astype(dtype), units)
    in_siemens = weights(write(tmp_path / "s.h5", g), Hardware(WINDOW))
    assert np.allclose(weights(path, Hardware(WINDOW)), in_siemens, rtol=1e-5, atol=1e-7)


def test_a_scale_in_the_file_needs_no_hardware(tmp_path: Path) -> None:
    path = write(tmp_path / "lab.h5", measured(2, 5))
    with h5py.File(path, "a") as file:
        file["layers/0"].attrs["scale"] = np.linspace(1e-4, 2e-4, 5)
    scale = np.linspace(1e-4, 2e-4, 5).astype(np.float32)
    assert np.array_equal(weights(path), read_weight(measured(2, 5), WINDOW, scale).T)


def test_chunks_and_layouts_of_any_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossbar_sim.store.chip_layout.CELLS", 4)
    for mapping, columns in ((WINDOW, 5), (Offset(2e-6, 8e-5), 6)):
        g = measured(mapping.planes, columns)
        expected = read_weight(g, mapping, mapping.scale(W)).T
        for layout in (
            {},
            {"chunks": (1, 7, 1)},
            {"chunks": (1, 2, 3), "shuffle": True, "fletcher32": True},
            {"chunks": (mapping.planes, 7, columns), "fletcher32": True},
            {"chunks": (1, 1, 5), "compression": "gzip", "fletcher32": True},
        ):
            path = write(tmp_path / "lab.h5", g, **layout)
            assert np.array_equal(weights(path, Hardware(mapping)), expected)


def test_deployed(tmp_path: Path) -> None:
    """The model computes with the measured layer and, for the other, its clean weights."""
    path = write(tmp_path / "lab.h5", measured(2, 5))
    with h5py.File(path, "a") as file:  # more may lie beside
        file["layers/0/temperature"] = 300.0
        file["notes"] = "wafer 7"
        file["layers/0/g_drifted"].attrs["instrument"] = "prober"
    hardware = Hardware(WINDOW)
    analog = to_analog(two_layers(), hardware)
    chip = read_chip(path)
    assert chip.check_against(names(analog)) == (("2.weight",), ())
    analog_state(analog).set_maps(chip.maps(hardware))
    clean = two_layers()[0].weight.detach().numpy()
    with torch.no_grad():
        expected = read_weight(measured(2, 5), WINDOW, WINDOW.scale(clean)).T
        assert np.array_equal(analog[0].weight.numpy(), expected)
        assert torch.equal(analog[2].weight, two_layers()[2].weight)


@pytest.mark.filterwarnings("error")
def test_microsiemens_that_say_they_are_siemens_are_warned_of(tmp_path: Path) -> None:
    path = write(tmp_path / "lab.h5", measured(2, 5) * 1e6)
    with pytest.warns(
        UnitWarning, match=r"0\.weight: the largest conductance, 6[\d.]+ S, is above 0\.1 S.*microsiemens\?"
    ):
        weights(path, Hardware(WINDOW))
    assert "microsiemens?" in dict(describe_chip(path))["warning"]
    maps = read_chip(path).maps(Hardware(WINDOW, wires=Wires(1.0, 1.0)))
    with pytest.warns(UnitWarning, match="microsiemens"):
        maps("0.weight", W)
    maps("0.weight", W)  # once
    assert len(maps.cautions) == 1
    right = write(tmp_path / "right.h5", measured(2, 5) * 1e6, "uS")
    weights(right, Hardware(WINDOW))
    assert "warning" not in dict(describe_chip(right))
    with pytest.warns(UnitWarning, match=r"g_max=100 S is above 0\.1 S"):
        Hardware(Differential(1.0, 100.0))
    Hardware(Differential(0.0, 0.1))


def test_wires_act_on_measured_cells(tmp_path: Path) -> None:
    """Those of the hardware: what a lab measures cell by cell has none in it."""
    g, wires = measured(2, 5), Wires(40.0, 40.0)
    hardware = Hardware(WINDOW, tile=(4, 3), wires=wires)
    found = weights(write(tmp_path / "lab.h5", g), hardware)
    effective = np.empty_like(g)
    for plane, rows, cols in itertools.product(
        range(2), (slice(0, 4), slice(4, 7)), (slice(0, 3), slice(3, 5))
    ):
        effective[plane, rows, cols] = wires.effective(g[plane, rows, cols])
    np.testing.assert_allclose(found, read_weight(effective, WINDOW, WINDOW.scale(W)).T, rtol=1e-4, atol=1e-6)
    assert not np.allclose(found, read_weight(g, WINDOW, WINDOW.scale(W)).T, rtol=1e-3)


def test_slices_of_a_lab(tmp_path: Path) -> None:
    """By the attributes, or by the hardware where the planes are as many."""
    mapping = Offset(0.0, 6e-5, levels=64, cell_bits=2)
    array = Hardware(mapping).program(W.T, Key(0))
    path = write(tmp_path / "lab.h5", array.drifted)
    assert np.array_equal(weights(path, Hardware(mapping)), array.weight.T)
    with pytest.raises(InputError, match="3 planes"):
        weights(path, Hardware(WINDOW))
    with h5py.File(path, "a") as file:
        file["layers/0"].attrs.update(
            {"mapping": "offset", "levels": 64, "cell_bits": 2, "scale": array.scale}
        )
    assert np.array_equal(weights(path), array.weight.T)
    with h5py.File(path, "a") as file:
        del file["layers/0"].attrs["levels"]
    with pytest.raises(InputError, match="give the attribute levels"):
        read_chip(path)


def test_description(tmp_path: Path) -> None:
    lines = dict(describe_chip(write(tmp_path / "lab.h5", measured(2, 5))))
    assert lines["format"] == "a chip file of a lab's own"
    assert lines["0.weight"].startswith("2 x 7 x 5, ")
    assert "stuck" not in lines["0.weight"]


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "lab.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/\x1b[2Jx/g_drifted", data=measured(2, 5)).attrs["units"] = "S"
    assert "?[2Jx.weight" in dict(describe_chip(path))
    with pytest.raises(InputError) as error:
        read_chip(path).check_against(["fc1.weight"])
    assert "\x1b" not in str(error.value)
