"""The tables of a launch of `triton_kernels`: one row for each array, so that all arrays of a chip are one launch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossbar_sim.crossbar import drift as laws
from crossbar_sim.crossbar.devices import MeasuredNoise, PolynomialNoise, ProgrammingNoise
from crossbar_sim.crossbar.drift import DriftModel
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.mapping import Differential, Offset
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.rng import Key, check_chip

INTEGERS = (
    "w", "out", "scale", "inverse", "reference", "table", "first", "end", "weights", "rows", "plane", "copies", "chip",
    "programming", "programming1", "stuck", "stuck1", "drift", "drift1", "off_below", "on_from", "drop_below", "block",
    "event",
)  # fmt: skip
"""Columns of the table of int64: addresses, cell numbers, key words (two columns each), thresholds."""

REALS = {
    "middle": 0, "low": 1, "high": 2, "step": 3, "top": 4, "level": 5, "per_step": 6, "law": 7, "noise": 10,
    "sigma": 11, "mean": 27, "relax": 43, "drifted_mean": 44, "spread": 60, "end": 76,
}  # fmt: skip
"""First columns of the table of float64: the mapping, 3 of the law, and polynomials of up to 16 coefficients."""

GROUPS = 8
"""Groups of 256 cells that one program computes."""

_SPREADS: dict[type, tuple[str, str]] = {
    laws.NormalDrift: ("factor", "normal"),
    laws.NormalShift: ("shift", "normal"),
    laws.UniformDrift: ("factor", "uniform"),
    laws.UniformShift: ("shift", "uniform"),
    laws.LaplaceDrift: ("factor", "laplace"),
    laws.LaplaceShift: ("shift", "laplace"),
    laws.LogNormalDrift: ("lognormal", "normal"),
    laws.RetentionDrift: ("lognormal", "normal"),
    laws.RelaxationShift: ("shift", "normal"),
    laws.MeasuredRelaxation: ("relax", "normal"),
    laws.GammaDrift: ("gamma", "normal"),
    laws.ParetoDrift: ("pareto", "word"),
    laws.BernoulliDrift: ("bernoulli", "word"),
    type(None): ("", ""),
}
"""Laws that have a kernel: what it calls their equation, and what they draw."""

_NOISES: dict[type, str] = {
    ProgrammingNoise: "constant",
    PolynomialNoise: "constant",
    MeasuredNoise: "measured",
    type(None): "",
}


@dataclass(frozen=True, eq=False)
class Job:
    """An array to be programmed: everything but the weights' own memory is on their device.

    Args:
        hardware, key, chip: as for `Hardware.effective_weight`.
        columns: the transposed matrix (cols, rows), C-contiguous: float32, bfloat16 or float16.
        scale, inverse: of the mapping, (1,) or (cols,) float32.
        out: where to write, as `columns`.
    """

    hardware: Hardware
    columns: Tensor
    key: Key
    chip: int
    scale: Tensor
    inverse: Tensor
    out: Tensor


@dataclass(frozen=True)
class Form:
    """What a kernel is compiled for; arrays of one form share a launch. The fields are the kernel's constants."""

    form: str
    per_column: bool
    levels: bool
    noise: str
    sigma: int
    mean: int
    stuck: bool
    law: str
    draw: str
    drifted_mean: int
    spread: int
    per_weight: bool
    kind: torch.dtype
    aligned: bool = field(default=True)


def law_has_kernel(law: DriftModel | None) -> bool:
    """Whether the kernels have the law; a subclass of one has its own `cells`."""
    return type(law) in _SPREADS


def has_kernel(hardware: Hardware) -> bool:
    """Whether the kernels can program this design."""
    return (
        type(hardware.mapping) in (Differential, Offset)
        and hardware.mapping.cell_bits is None
        and hardware.wires is None
        and law_has_kernel(hardware.drift)
        and type(hardware.programming) in _NOISES
    )


def form_of(job: Job, form: str) -> Form:
    """The form of an array; `form` is one of `triton_kernels.program_arrays`."""
    hardware, noise, law = job.hardware, job.hardware.programming, job.hardware.drift
    degrees = [0, 0, 0, 0]
    if isinstance(noise, PolynomialNoise):
        degrees[:2] = len(noise.coefficients) - 1, len(getattr(noise, "mean", (0,))) - 1
    if isinstance(law, laws.MeasuredRelaxation):
        degrees[2:] = [len(part) - 1 for part in law.at_time]
    aligned = job.columns.numel() % 8 == 0 and all(t.data_ptr() % 16 == 0 for t in (job.columns, job.out))
    return Form(
        form, job.scale.numel() > 1, hardware.mapping.levels is not None, _NOISES[type(noise)], degrees[0], degrees[1],
        hardware.stuck is not None, *_SPREADS[type(law)], degrees[2], degrees[3], hardware.drift_per == "weight",
        job.columns.dtype, aligned,
    )  # fmt: skip


def rows_of(
    job: Job, first: int, end: int, plane: int, out: int, reference: int, table: int
) -> tuple[dict[str, int], list[float]]:
    """The two rows of an array: whole numbers by name, real numbers in order.

    Args:
        job: the array.
        first, end: its cells.
        plane: for the form "plane".
        out, reference, table: addresses.
    """
    hardware, mapping = job.hardware, job.hardware.mapping
    stuck, law = hardware.stuck, hardware.drift
    integers = {
        "w": job.columns.data_ptr(), "out": out, "scale": job.scale.data_ptr(), "inverse": job.inverse.data_ptr(),
        "reference": reference, "table": table, "first": first, "end": end, "weights": job.columns.numel(),
        "rows": job.columns.shape[1], "plane": plane, "copies": mapping.copies, "chip": check_chip(job.chip),
        "off_below": 0 if stuck is None else int(stuck.off * 2**32),
        "on_from": 2**32 if stuck is None else 2**32 - int(stuck.on * 2**32),
        "drop_below": _drop_below(law), "event": 0,
    }  # fmt: skip
    for name in ("programming", "stuck", "drift"):
        integers[name], integers[f"{name}1"] = job.key.fold(name).words()
    reals = _reals(law)

    def put(name: str, values: Sequence[Any]) -> None:
        reals[REALS[name] : REALS[name] + len(values)] = [float(v) for v in values]

    put("middle", (mapping.middle, mapping.g_min, mapping.g_max, mapping.step))
    if mapping.levels is not None:
        put("top", (mapping.levels - 1, mapping.middle_level, 1 / mapping.step))
    noise = hardware.programming
    if isinstance(noise, ProgrammingNoise):
        put("noise", (1.0, noise.sigma * mapping.g_max))
    elif isinstance(noise, PolynomialNoise):
        put("noise", (1 / noise.reference, *noise.coefficients))
        put("mean", getattr(noise, "mean", (0.0,)))
    return integers, reals


def form_of_cells(law: DriftModel, g: Tensor, out: Tensor) -> Form:
    """The form of cells that only drift."""
    mean, spread = law.at_time if isinstance(law, laws.MeasuredRelaxation) else ((0.0,), (0.0,))
    aligned = g.numel() % 8 == 0 and all(t.data_ptr() % 16 == 0 for t in (g, out))
    equation, draw = _SPREADS[type(law)]
    degrees = len(mean) - 1, len(spread) - 1
    return Form("cells", False, False, "", 0, 0, False, equation, draw, *degrees, False, g.dtype, aligned)


def rows_of_cells(
    law: DriftModel, g: Tensor, out: Tensor, stream: Stream, table: int
) -> tuple[dict[str, int], list[float]]:
    """`rows_of` cells that only drift: conductances g and out (n,), C-contiguous."""
    integers = dict.fromkeys(INTEGERS, 0) | {
        "w": g.data_ptr(), "out": out.data_ptr(), "table": table, "end": g.numel(), "weights": g.numel(), "rows": 1,
        "plane": stream.plane, "chip": stream.chip, "event": stream.event, "drift": stream.k0, "drift1": stream.k1,
        "drop_below": _drop_below(law),
    }  # fmt: skip
    return integers, _reals(law)


def _drop_below(law: DriftModel | None) -> int:
    return int(law.p * 2**32) if isinstance(law, laws.BernoulliDrift) else 0


def _reals(law: DriftModel | None) -> list[float]:
    """A row of real numbers with those of the law."""
    reals = [0.0] * REALS["end"]
    found = {"law": _law(law)}
    if isinstance(law, laws.MeasuredRelaxation):
        found |= dict(zip(("drifted_mean", "spread"), law.at_time, strict=True)) | {
            "relax": (1 / law.reference,)
        }
    for name, values in found.items():
        reals[REALS[name] : REALS[name] + len(values)] = [float(v) for v in values]
    return reals


def _law(law: Any) -> Sequence[Any]:
    """The law's parameters, rounded where its `cells` rounds them."""
    if isinstance(law, laws.LogNormalDrift | laws.RetentionDrift):
        return law.rates
    if isinstance(law, laws.RelaxationShift):
        return law.mean, law.spread
    if isinstance(law, laws.GammaDrift):
        return -law.Z, law.PIECES / (2 * law.Z)
    if isinstance(law, laws.ParetoDrift):
        return 1 - 1 / law.alpha, np.log2(math.e) / (2 * law.alpha)
    if _SPREADS[type(law)][0] == "factor":
        return (law.sigma,)
    return (0.0, law.sigma) if _SPREADS[type(law)][0] == "shift" else ()
