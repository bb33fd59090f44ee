"""The Triton kernels of converters: in Triton's interpreter against the CPU's kernels, and compiled without a GPU."""

import importlib
import sys

import numpy as np
import pytest
import torch

from crossbar_sim import Differential, Hardware, Key, LogNormalDrift, Offset
from crossbar_sim.crossbar.array import multiplying
from crossbar_sim.crossbar.converters import ADC, DAC
from crossbar_sim.crossbar.readout import EFFECTS, Periphery, Readout
from crossbar_sim.errors import InputError
from crossbar_sim.nn.tensor_tiles import fused
from crossbar_sim.nn.tensor_tiles.readout import TensorReadout

triton = pytest.importorskip("triton")
NAME = "crossbar_sim.nn.tensor_tiles.triton_kernels"


def kernels(monkeypatch, interpreted):
    """The kernels, decorated anew: for the interpreter or for a compiler."""
    monkeypatch.setenv("TRITON_INTERPRET", str(int(interpreted)))
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    found = importlib.import_module(NAME)
    monkeypatch.setattr(fused, "_kernels", lambda: found)
    return found


DESIGNS = {
    "levels": Hardware(Differential(1e-6, 1e-4, levels=64), dac=DAC(8), adc=ADC(8, range="max"), tile=(32, 32)),
    "between levels": Hardware(
        Differential(0.0, 1e-4, scale_per="column"), dac=DAC(8, range=1.5), adc=ADC(7, range=3e-4), tile=(40, 32),
        drift=LogNormalDrift(0.3),
    ),
    "columns, mismatch": Hardware(
        Differential(1e-6, 1e-4, levels=16), dac=DAC(6), tile=(48, 32),
        adc=ADC(8, range=5e-4, per="column", gain_sigma=0.02, offset_sigma=0.01),
    ),
    "offset, sliced cells": Hardware(
        Offset(1e-6, 1e-4, levels=64, cell_bits=3), dac=DAC(5), adc=ADC(9, range="granular"), tile=(33, 32)
    ),
}  # fmt: skip


@pytest.mark.filterwarnings(
    "ignore:invalid value encountered in divide"
)  # an infinite input, which is then refused
@pytest.mark.parametrize("name", DESIGNS)
def test_interpreted_kernels_give_the_outputs_of_the_cpu(monkeypatch, name):
    kernels(monkeypatch, interpreted=True)
    monkeypatch.setattr(fused, "usable", lambda device: True)
    for size in ("ROWS", "COLUMNS", "LINES"):
        monkeypatch.setattr(fused, size, 16)
    hardware, key, draw = DESIGNS[name], Key(4).fold("fc.weight"), np.random.default_rng(0)
    w, x = (draw.standard_normal(shape).astype(np.float32) for shape in ((21, 70), (35, 70)))
    scale = hardware.mapping.scale(w)
    planes = np.ascontiguousarray(multiplying(hardware, w, scale, key, 1).transpose(0, 2, 1))
    around = (hardware.mapping, scale, hardware.tile[0], Periphery.of(hardware, key, 1))
    ours, core = TensorReadout(torch.from_numpy(planes), *around), Readout(planes, *around)
    driven, wanted = ours.drive(torch.from_numpy(x)), core.drive(x)
    assert np.array_equal(driven.codes.numpy(), wanted.codes)
    assert np.array_equal(driven.unit.numpy(), np.broadcast_to(wanted.unit, len(x)))
    y, expected = ours.read(driven).numpy(), core.read(wanted)
    held = ours.ready(driven.full_scale, EFFECTS)
    assert held.split is not None  # the kernel ran
    code = 1.001 * float(held.factors(driven.weights).abs().max()) * np.outer(wanted.unit, core.inverse)
    apart = np.abs(y - expected) > 1e-6 * np.abs(expected).max()
    assert np.all(np.abs(y - expected)[apart] <= np.broadcast_to(code, y.shape)[apart])
    assert apart.mean() <= (0 if hardware.drift is None else 1e-3)
    across = driven._replace(codes=driven.codes.mT.contiguous().mT)  # as patches of images lie
    assert np.array_equal(ours.read(across).numpy(), y)
    together = ours.read(driven, images=True).numpy()
    np.testing.assert_allclose(together, y, rtol=3e-7)
    x[3, 50] = np.inf
    with pytest.raises(InputError, match="NaN or infinite"):
        ours.drive(torch.from_numpy(x))


def test_kernels_compile_for_an_h100_without_one(monkeypatch, tmp_path):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    found = kernels(monkeypatch, interpreted=False)
    blocks = {"BM": fused.ROWS, "BN": fused.COLUMNS, "BK": fused.LINES}
    flags = {"PARTS": 3, "READS": 2, "SHIFTED": True, "TOGETHER": True}
    for kernel, constants in ((found.drive, {"DYNAMIC": True, "BLOCK": 1024}), (found.read, blocks | flags)):
        kinds = {"planes": "*fp16"} | dict.fromkeys(("quotient", "shift", "factors"), "*fp64")
        kinds |= dict.fromkeys(("x", "codes", "out", "unit", "largest_of", "inverse"), "*fp32")
        kinds |= dict.fromkeys(("full", "top", "low", "high"), "fp32") | dict.fromkeys(constants, "constexpr")
        signature = {name: kinds.get(name, "i32") for name in kernel.arg_names}
        options = {"num_warps": fused.WARPS, "num_stages": fused.STAGES, "enable_fp_fusion": False}
        compiled = triton.compile(
            ASTSource(kernel, signature, constexprs=constants),
            target=GPUTarget("cuda", 90, 32),
            options=options,
        )
        assert compiled.asm["cubin"]
        assert kernel is found.drive or "wgmma" in compiled.asm["ptx"]
