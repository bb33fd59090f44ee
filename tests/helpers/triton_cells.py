"""Cells by the Triton kernels in Triton's interpreter, against the CPU kernels: run with TRITON_INTERPRET=1.

    python -m helpers.triton_cells 3000 designs          every law, mapping and noise, 3000 weights each
    python -m helpers.triton_cells 10000000 drift        one array with log-normal drift

Prints a JSON object: of each design the number of weights, of those that differ in a bit, and the largest
difference in units of the last place.
"""

import json
import sys
from typing import Any

import numpy as np
import torch
from triton.runtime import interpreter

from crossbar_sim import (
    Differential,
    DriftModel,
    Hardware,
    Key,
    LogNormalDrift,
    MeasuredNoise,
    NormalDrift,
    Offset,
    PolynomialNoise,
    ProgrammingNoise,
    StuckCells,
)
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.nn import program, to_analog
from crossbar_sim.nn.analog.chips import analog_state
from crossbar_sim.nn.tensor_cells import fused
from crossbar_sim.nn.tensor_cells.segments import Job
from helpers.law_examples import LAWS


def _rounded_once(builder: Any, x: Any, y: Any, z: Any) -> Any:
    """A fused multiply-add as a card computes it; the interpreter's own rounds the product by itself."""
    exact = x.data.astype(np.float64) * y.data.astype(np.float64) + z.data.astype(np.float64)
    return interpreter.TensorHandle(exact.astype(x.data.dtype), x.dtype.scalar)


def designs() -> dict[str, Hardware]:
    """Designs that take every branch of the kernels."""
    found = {law.kind: Hardware(Differential(1e-6, 0.09), drift=law) for law in LAWS}
    drift = LogNormalDrift(0.5)
    found |= {
        "all of a pair": Hardware(
            Differential(1e-6, 1e-4, levels=16, scale_per="column", copies=2, clip=95.0), drift=drift
        ),
        "offset, levels": Hardware(Offset(1e-6, 1e-4, levels=7), drift=drift),
        "offset, columns": Hardware(Offset(1e-6, 1e-4, copies=2, scale_per="column")),
    }
    noises: dict[str, Any] = {
        "constant noise": ProgrammingNoise(0.03),
        "polynomial noise": PolynomialNoise((1e-6, 2e-6, -1e-6), 5e-5),
        "measured noise": MeasuredNoise((1e-6, 2e-6), 5e-5, (2e-6, -3e-6)),
    }
    found |= {name: Hardware(Differential(1e-6, 1e-4), programming=noise) for name, noise in noises.items()}
    everything: dict[str, Any] = {
        "drift": NormalDrift(0.2), "programming": ProgrammingNoise(0.03), "stuck": StuckCells(0.1, 0.05)
    }  # fmt: skip
    found["everything"] = Hardware(Differential(1e-6, 1e-4), drift_per="weight", **everything)
    found["offset, everything"] = Hardware(Offset(1e-6, 1e-4), **everything)
    return found


def compare(
    hardware: Hardware, weights: int, shapes: tuple[tuple[int, int], ...], chip: int = 3
) -> dict[str, int]:
    """An array and others of (rows, cols) in the same launch, against the CPU kernels."""
    jobs, cores = [], []
    for rows, cols in ((67, -(-weights // 67)), *shapes):
        w = np.random.default_rng(rows).standard_normal((cols, rows)).astype(np.float32)
        scale = hardware.mapping.scale(w)
        own, inverse = torch.from_numpy(scale), torch.from_numpy(hardware.mapping.inverse(scale))
        key, columns = Key(2).fold(str(rows)), torch.from_numpy(w)
        jobs.append(Job(hardware, columns, key, chip, own, inverse, torch.full_like(columns, torch.nan)))
        cores.append(hardware.effective_weight(w, key, chip).ravel())
    fused.program_arrays(jobs)
    found, core = np.concatenate([job.out.numpy().ravel() for job in jobs]), np.concatenate(cores)
    gap = np.abs(found.astype(np.float64) - core) / np.spacing(np.maximum(np.abs(core), np.float32(1e-30)))
    return {
        "weights": core.size,
        "differ": int((found.view(np.int32) != core.view(np.int32)).sum()),
        "ulp": int(np.ceil(gap.max())) if np.isfinite(gap).all() else -1,
    }


def flat(law: DriftModel) -> dict[str, int]:
    """Conductances that only drift, from a stream whose every number counts."""
    g, stream = np.linspace(1e-6, 1, 1001, dtype=np.float32), Stream(2**32 - 1, 5, 7, 2**32 - 2, 9)
    core, out = np.empty_like(g), torch.full((1001,), torch.nan)
    law.apply_plane(g, core, stream)
    fused.drift(law, torch.from_numpy(g), stream, out)
    return {"weights": g.size, "differ": int((out.numpy().view(np.int32) != core.view(np.int32)).sum())}


def one_launch() -> dict[str, int]:
    """All layers of a model, as `chips.program` programs them on a card: one launch, the bits of the CPU kernels."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8, 8))
    hardware = Hardware.preset("bayesft", sigma=0.5)
    launches = []
    alone, launch = fused.usable, fused._launch
    fused.usable = lambda job: True
    fused._launch = lambda form, segments, device: (
        launches.append(len(segments)),
        launch(form, segments, device),
    )
    values = []
    for tensors in (False, True):
        analog = to_analog(model, hardware, seed=3, chip=2)
        analog_state(analog).tensors = tensors
        program(analog)
        with torch.no_grad():
            read = [getattr(layer, name) for layer in (analog[0], analog[2]) for name in ("weight", "bias")]
        values.append(torch.cat([value.ravel() for value in read]))
    fused.usable, fused._launch = alone, launch
    one = torch.ones(1, 1)
    assert fused._check(Job(hardware, one, Key(0), 0, one[0], one[0], one))
    differ = int((values[0] != values[1]).sum())
    return {
        "weights": values[0].numel(),
        "differ": differ,
        "launches": len(launches),
        "arrays": sum(launches),
    }


if __name__ == "__main__":
    interpreter.InterpreterBuilder.create_fma = _rounded_once
    if int(sys.argv[1]) > 100_000:
        fused.GROUPS = 512  # the interpreter takes its time for each block, however large
    drift_alone = {"drift": Hardware(Differential(1e-6, 1e-4), drift=LogNormalDrift(0.6))}
    chosen = designs() if sys.argv[2] == "designs" else drift_alone
    others = {"everything": ((5, 8), (300, 9)), "offset, everything": ((5, 8),)}
    found = {k: compare(v, int(sys.argv[1]), others.get(k, ())) for k, v in chosen.items()}
    if sys.argv[2] == "designs":
        found |= {
            f"{law.kind}, flat": flat(law) for law in LAWS if law.kind in ("lognormal", "pareto", "gamma")
        }
    print(json.dumps({**found, "one launch": one_launch()} if sys.argv[2] == "designs" else found))
