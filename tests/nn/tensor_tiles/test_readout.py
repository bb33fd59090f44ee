"""Converters and read noise on tensors against the kernels of the CPU: random designs, and every kind of layer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.analog_models import LAYERS, PLAIN, first, made

from crossbar_sim import Differential, Hardware, Key, LogNormalDrift, Offset
from crossbar_sim.crossbar.array import multiplying, read_weight
from crossbar_sim.crossbar.converters import ADC, DAC, GaussianReadNoise, TelegraphNoise
from crossbar_sim.crossbar.readout import EFFECTS, Periphery, Readout
from crossbar_sim.errors import InputError
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.tensor_tiles.product import single_precision
from crossbar_sim.nn.tensor_tiles.readout import TensorReadout


def design(draw: np.random.Generator) -> Hardware:
    """A random design with converters; a third of them have read noise, a third cells between levels."""

    def some(*values):
        return values[int(draw.integers(len(values)))]

    levels = some(None, 16, 64)
    kind = some(Differential, Offset)
    mapping = kind(
        some(0.0, 1e-6), 1e-4, copies=some(1, 1, 2), levels=levels, scale_per=some("matrix", "column"),
        cell_bits=some(None, 1, 3) if levels else None,
    )  # fmt: skip
    bits = some(None, 4, 8)
    dac = DAC(
        bits, range=some("dynamic", 2.5), signed=some("sign-magnitude", "two-phase"),
        slice_bits=some(None, 1, 3) if bits else None,
    )  # fmt: skip
    per = some("pair", "column")
    adc = ADC(
        some(4, 6, 8), range=some("max", 3e-4, "granular" if bits and levels else 2e-4), per=per,
        gain_sigma=some(0, 0.02), offset_sigma=some(0, 0.01), share=some(1, 4),
        encoding=some(None, "flip") if per == "column" else None,
    )  # fmt: skip
    noise = some(None, None, some(GaussianReadNoise(0.02, some("g", "g_max")), TelegraphNoise(0.1, 0.3)))
    fixed = not isinstance(adc.range, str)
    return Hardware(
        mapping, dac=some(dac, dac, None) if fixed else dac, adc=some(adc, adc, None), read_noise=noise,
         tile=(some(8, 16, 33), 16), drift=some(None, None, LogNormalDrift(0.3)),
    )  # fmt: skip


def test_outputs_are_those_of_the_kernels():
    """Bit for bit where currents are whole levels; elsewhere at most one code apart, in a thousandth of the outputs."""
    outputs = apart = 0
    for seed in range(80):
        draw = np.random.default_rng(seed)
        hardware, key = design(draw), Key(seed).fold("fc.weight")
        b, m, n = (int(size) for size in draw.integers(1, 50, 3))
        w, x = (draw.standard_normal(shape).astype(np.float32) for shape in ((n, m), (b, m)))
        scale = hardware.mapping.scale(w)
        planes = np.ascontiguousarray(multiplying(hardware, w, scale, key, 1).transpose(0, 2, 1))
        around = (hardware.mapping, scale, hardware.tile[0], Periphery.of(hardware, key, 1))
        ours, core = TensorReadout(torch.from_numpy(planes), *around), Readout(planes, *around)
        assert np.array_equal(ours.weight().numpy(), read_weight(planes, hardware.mapping, scale).T)
        driven, wanted = ours.drive(torch.from_numpy(x)), core.drive(x)
        assert np.array_equal(driven.codes.numpy(), wanted.codes), hardware
        assert np.array_equal(driven.unit.numpy(), wanted.unit)
        y, expected = ours.read(driven, event=2, first=7).numpy(), core.read(wanted, event=2, first=7)
        levels, codes = hardware.mapping.levels, hardware.dac is not None and hardware.dac.bits
        if levels and codes and hardware.drift is None and hardware.read_noise is None:
            assert np.array_equal(y, expected), hardware
        planes_of = ours.ready(driven.full_scale, EFFECTS)
        code = float(planes_of.factors(driven.weights).abs().max()) * np.outer(wanted.unit, core.inverse)
        rounding = 4e-6 * np.abs(expected).max()
        different = np.abs(y - expected)
        converts = planes_of.quantiser is not None
        assert np.all(different <= rounding + (1.001 * code if converts else 0)), hardware
        outputs, apart = outputs + y.size, apart + int((different > rounding).sum())
    assert apart <= outputs / 1000, (apart, outputs)


SCALED = Differential(1e-6, 1e-4, levels=64, scale_per="column")
CONVERTED = Hardware(SCALED, dac=DAC(6), adc=ADC(7, range="max"), tile=(16, 16))
NOISY = replace(
    PLAIN, dac=DAC(6), adc=ADC(6, range=2e-4), read_noise=GaussianReadNoise(0.02), tile=(16, 16), bias="row"
)


@pytest.mark.filterwarnings("ignore:bias=row adds no row")
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("hardware", [CONVERTED, NOISY], ids=["levels", "noise and bias rows"])
def test_every_layer_goes_through_the_same_converters(name, hardware):
    case, found = LAYERS[name], []
    analog = to_analog(made(case.build), hardware)
    state = chips.analog_state(analog)
    for state.tensors in (False, True):
        state.generation, state.reads = state.generation + 1, {}
        with torch.no_grad():
            found.append(first(analog(*case.inputs, **case.keywords)))
    core, ours = found
    assert torch.isfinite(core).all()
    if hardware is CONVERTED:  # whole levels: what follows the arrays is torch's on either way
        assert (core - ours).norm() <= 1e-5 * core.norm()
    else:  # a few currents may lie between two codes by a rounding error
        far = ((core - ours).abs() > 1e-5 * core.abs().max()).float().mean()
        assert far <= 0.1 or (core - ours).norm() <= 1e-2 * core.norm()


def test_what_the_products_refuse():
    around = (
        Differential(),
        np.ones(1, np.float32),
        16,
        Periphery.of(CONVERTED, Key(0).fold("fc.weight"), 0),
    )
    readout = TensorReadout(torch.full((2, 20, 3), 1e-5), *around)
    with pytest.raises(InputError, match="NaN or infinite"):
        readout.drive(torch.full((2, 20), float("nan")))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with single_precision(torch.device("cpu")):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
