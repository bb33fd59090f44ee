"""Products through converters on a GPU that is not there: no operation mixes its tensors with the CPU's."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.fake_gpu import fake_gpu
from torch import nn

from crossbar_sim import Differential, Hardware, LogNormalDrift, Offset
from crossbar_sim.crossbar.converters import ADC, DAC, GaussianReadNoise
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog.products import _read
from crossbar_sim.nn.analog.programming import tiled_of
from crossbar_sim.nn.analog.stored_matrices import BlockRead
from crossbar_sim.nn.analog.tiled_arrays import Window, convolve, spread
from crossbar_sim.nn.device import Device

TILE = (32, 32)
DESIGNS = {
    "columns, noise": Hardware(
        Differential(1e-6, 1e-4), drift=LogNormalDrift(0.3), read_noise=GaussianReadNoise(0.02), tile=TILE, bias="row",
        dac=DAC(3, signed="two-phase"),
        adc=ADC(8, range=2e-4, per="column", gain_sigma=0.01, offset_sigma=0.01),
    ),
    "flipped": Hardware(
        Offset(1e-6, 1e-4, levels=64, cell_bits=2), dac=DAC(8), tile=TILE,
        adc=ADC(8, range="granular", per="column", encoding="flip"),
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Accessing the data pointer", "ignore:bias=row adds no row")
@pytest.mark.parametrize("name", DESIGNS)
def test_products_stay_on_the_device(name):
    with fake_gpu() as bus, torch.no_grad():
        layers = nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.ConvTranspose2d(6, 4, 2), nn.Linear(80, 90)
        analog = to_analog(nn.Sequential(*layers).eval(), DESIGNS[name])
        Device.of("cuda").put(analog)
        state = chips.analog_state(analog)
        bus.clear()
        arrays = [tiled_of(state, slot, module) for slot, module in chips.slots(analog) if state.tiled(slot)]
        window = Window((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 2)
        conv, transposed, linear = arrays
        found = [convolve(torch.empty(3, 4, 8, 8, device="cuda"), conv, window, True)]
        images = torch.empty(3, 6, 8, 8, device="cuda")
        found.append(spread(images, transposed, 1, lambda lines: F.pad(lines, (0, 1))))
        vectors, driven = linear.drive(torch.empty(5, 80, device="cuda"), True)
        found.append(linear.read(0, vectors, driven, 0, 0))
        some = BlockRead(0, np.arange(3), np.arange(3), np.arange(4), np.arange(4))
        found += [_read(torch.empty(5, 3, device="cuda"), some, linear, 1), linear.weight()]
        assert all(y.device.type == "cuda" for y in found)
        assert found[0].shape == (3, 6, 8, 8)
        assert found[2].shape == (5, 90)
        # conductances never go to the CPU; of each column, a few numbers of its converters come from there
        assert max(bus.to_cpu, default=0) < 4 * 90 * 20
        assert max(bus.to_gpu) < 4 * 80 * 90
