"""Converters computed by Triton kernels, on cards where they have been seen to compute right.

The kernels do the common case: a DAC with bits, driven in one read, no read noise, and one converter for each bit line
or pair without flipped or reference columns; everything else takes the plain path (product.py). Codes of at most 2048
are exact in float16, and a conductance in float32 is the sum of three numbers of float16 (of one, where cells are on up
to 2048 levels). So products are exact at the speed of the card's matrix units, and TF32 is not used.
"""

import functools
import math
import warnings
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossbar_sim.crossbar.tiled import Quantiser
from crossbar_sim.nn.tensor_tiles.product import TensorPlanes, product

LARGEST = 2048
"""Whole numbers up to this are exact in float16."""

ROWS, COLUMNS, LINES, WARPS, STAGES = 128, 64, 32, 8, 3
"""Outputs of a program (inputs, bit lines), and the word lines that it takes at a time."""


def usable(device: torch.device) -> bool:
    """Whether the kernels are to be used on a device: a card, with Triton, that computes them right."""
    return device.type == "cuda" and torch.cuda.is_available() and _right(device)


@functools.cache
def _right(device: torch.device) -> bool:
    """Whether the kernels give the plain path's outputs, for a few thousand of them."""
    if find_spec("triton") is None:
        return False
    draw = torch.linspace(0, 40, 300 * 70, device=device).sin().view(300, 70)
    planes = TensorPlanes(
        draw.T[:, :50].round(decimals=1)[None].contiguous(), tile_rows=32, weights=np.ones(1, np.float32),
        quantiser=Quantiser(3.0, -127, 127),
    )  # fmt: skip
    try:
        codes, unit, largest = drive(draw, 127.0, None)
        found = read(planes, codes, unit, torch.ones(1, device=device), False)
        wanted = (draw.double() * 127 / draw.abs().amax(1, keepdim=True)).round().float()
        y = product(planes, wanted[None], np.ones(1, np.float32)) * unit[:, None]
        apart = int(
            ((found - y).abs() > 3.01 * unit[:, None]).sum() + (codes != wanted).sum() + largest.isnan().sum()
        )
        apart += int((found != y).sum()) // 100  # some currents may lie between two codes by a rounding error
        why = f"differ in {apart} numbers"
    except Exception as error:  # whatever a compiler or a driver may raise: there is another way to compute
        apart, why = 1, f"fail: {(str(error).strip() or repr(error)).splitlines()[0][:200]}"
    if apart == 0:
        return True
    warnings.warn(
        f"Triton kernels on {device} {why}: converters are computed by plain torch operations, which takes longer",
        RuntimeWarning, stacklevel=2,
    )  # fmt: skip
    return False


def _kernels() -> Any:
    from crossbar_sim.nn.tensor_tiles import triton_kernels  # Triton is not on every machine

    return triton_kernels


def drive(x: Tensor, top: float, full: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. (18): signed codes (b, n) of inputs x (b, n), units of the input per code (b,), and NaN if one is not finite.

    Args:
        x: float32, contiguous.
        top: the largest code.
        full: the input at full scale; None: the largest of each input vector.
    """
    codes, unit = torch.empty_like(x), x.new_empty(len(x))
    largest = torch.zeros(1, device=x.device)
    _kernels().drive[(len(x),)](
        x, codes, unit, largest, x.shape[1], float(np.float32(full or 1.0)), top,
        DYNAMIC=full is None, BLOCK=1024, enable_fp_fusion=False,
    )  # fmt: skip
    return codes, unit, largest


def parts(planes: Tensor) -> tuple[Tensor, float]:
    """float32 (m, n) as (parts, m, n) in float16, one, two or three that add up to it, and what they are to be
    multiplied with: a power of two, so that the largest number lies just below the end of float16's range.

    What three of them leave of a number is less than 2^-39 of the largest one.
    """  # fmt: skip
    largest = float(planes.abs().max()) if planes.numel() else 0.0
    power = 2.0 ** (15 - math.frexp(largest)[1]) if largest else 1.0
    found: list[Tensor] = []
    left = planes.double() * power
    while not found or (len(found) < 3 and bool(left.any())):
        found.append(left.half())
        left = left - found[-1].double()
    return torch.stack(found), 1 / power


def read(planes: TensorPlanes, codes: Tensor, unit: Tensor, inverse: Tensor, together: bool) -> Tensor:
    """Outputs (b, n) in weight units, for codes (b, m) of one input slice.

    Args:
        planes: with converters.
        codes: whole numbers of at most `LARGEST`, in any order in memory.
        unit: units of the input per code, (b,) or (1,).
        inverse: weight units per unit of current, (n,) or (1,).
        together: whether unit and inverse are multiplied with one another first.
    """
    assert planes.quantiser is not None
    assert planes.quotient is not None
    b, m, n = len(codes), planes.rows, planes.columns
    out = codes.new_empty(b, n)
    if not out.numel():
        return out
    if planes.split is None:
        split, power = parts(planes.planes)
        planes.split = split, planes.quotient * power
    split, quotient = planes.split
    factors = planes.factors(np.ones(1, np.float32))
    grid = (-(-b // ROWS), -(-n // COLUMNS))
    _kernels().read[grid](
        codes, split, quotient, quotient if planes.shift is None else planes.shift,
        factors, unit, inverse, out, b, m, n, *codes.stride(), planes.tiles, planes.tile_rows, int(len(unit) > 1),
        int(len(inverse) > 1), float(planes.quantiser.low), float(planes.quantiser.high),
        PARTS=len(split), READS=planes.reads, SHIFTED=planes.shift is not None, TOGETHER=together,
        BM=ROWS, BN=COLUMNS, BK=LINES, num_warps=WARPS, num_stages=STAGES, enable_fp_fusion=False,
    )  # fmt: skip
    return out
