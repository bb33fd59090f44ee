"""Arrays programmed by Triton kernels, all of a chip in one launch, where a card has been seen to compute them right.

A kernel is checked once, when its form is first used in a process: a few thousand cells against the CPU's kernels. A
form that fails, or cannot be compiled, is computed by the plain path (`planes.py`), and a warning says so.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossbar_sim.crossbar import drift as laws
from crossbar_sim.crossbar.drift import DriftModel
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.nn.tensor_cells.segments import (
    GROUPS,
    INTEGERS,
    Form,
    Job,
    form_of,
    form_of_cells,
    has_kernel,
    law_has_kernel,
    rows_of,
    rows_of_cells,
)
from crossbar_sim.rng import Key

_KINDS = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}

_trusted: dict[tuple[torch.device, Form], bool] = {}
"""Whether a form has been computed right on a device."""


@functools.cache
def _installed() -> bool:
    return find_spec("triton") is not None and torch.cuda.is_available()


def constants(form: Form) -> dict[str, Any]:
    """The compile-time constants of the kernel for arrays of a form."""
    import triton.language as tl  # Triton is there, and never imported on a machine without a GPU

    found = {name.upper(): value for name, value in vars(form).items()}
    return {**found, "KIND": getattr(tl, _KINDS[form.kind]), "GROUPS": GROUPS}


def program_arrays(jobs: Sequence[Job]) -> None:
    """Program arrays: on each device one launch for all of a form, and one for reference columns before it."""
    kept = []
    references: dict[tuple[torch.device, Form], list[Any]] = {}
    arrays: dict[tuple[torch.device, Form], list[Any]] = {}
    for job in jobs:
        mapping, n, rows = job.hardware.mapping, job.columns.numel(), job.columns.shape[1]
        if n == 0:
            continue
        device, pair = job.columns.device, mapping.planes_per_copy == 2
        table = _table(job.hardware.drift, device)
        column = table if pair else torch.empty(mapping.copies, rows, device=device)
        kept += [table, column]
        for plane in range(0 if pair else mapping.copies):
            made = rows_of(
                job, n // 256 * 256, n + rows, plane, column[plane].data_ptr(), 0, table.data_ptr()
            )
            references.setdefault((device, form_of(job, "plane")), []).append(made)
        made = rows_of(job, 0, n, 0, job.out.data_ptr(), column.data_ptr(), table.data_ptr())
        arrays.setdefault((device, form_of(job, "pair" if pair else "reference")), []).append(made)
    for (device, form), segments in [*references.items(), *arrays.items()]:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            _launch(form, segments, device)


def _table(law: Any, device: torch.device) -> Tensor:
    """The table of a gamma law, or something with an address."""
    if type(law) is laws.GammaDrift:
        return torch.from_numpy(laws.gamma_table(law)).to(device)
    return torch.empty(1, device=device)


def _launch(form: Form, segments: list[tuple[dict[str, int], list[float]]], device: torch.device) -> None:
    from crossbar_sim.nn.tensor_cells import triton_kernels

    blocks = [-(-(integers["end"] - integers["first"]) // (256 * GROUPS)) for integers, _ in segments]
    for number, (integers, _) in enumerate(segments):
        integers["block"] = sum(blocks[:number])
    whole = torch.tensor([[integers[name] for name in INTEGERS] for integers, _ in segments]).to(device)
    real = torch.tensor([reals for _, reals in segments], dtype=torch.float64).to(device)
    numbers = torch.arange(len(blocks), dtype=torch.int32, device=device)
    owners = numbers.repeat_interleave(torch.tensor(blocks, device=device), output_size=sum(blocks))
    kernel: Any = triton_kernels.program_arrays
    # contracting a product and a sum into one operation would round otherwise than the core
    kernel[(sum(blocks),)](whole, real, owners, **constants(form), enable_fp_fusion=False)


def drift(law: DriftModel, g: Tensor, stream: Stream, out: Tensor) -> None:
    """Write conductances g (n,) after drift into `out`; both C-contiguous."""
    if g.numel():
        table = _table(law, g.device)
        made = rows_of_cells(law, g, out, stream, table.data_ptr())
        with torch.cuda.device(g.device) if g.device.type == "cuda" else nullcontext():
            _launch(form_of_cells(law, g, out), [made], g.device)


def _on_card(values: Tensor) -> bool:
    """Whether kernels can read the values: on a card, not a fake tensor, of a type that they know."""
    return values.device.type == "cuda" and type(values) is Tensor and values.dtype in _KINDS and _installed()


def usable(job: Job) -> bool:
    """Whether an array is to be programmed by a kernel: on a card, with Triton, and its form computed right there."""
    if not (_on_card(job.columns) and has_kernel(job.hardware)):
        return False
    place = (job.columns.device, form_of(job, ""))
    if place not in _trusted:
        _trusted[place] = _check(job)
    return _trusted[place]


def usable_for(law: DriftModel, g: Tensor, out: Tensor) -> bool:
    """Whether `drift` is to be used: as `usable`."""
    if not (_on_card(g) and law_has_kernel(law) and g.is_contiguous()):
        return False
    place = (g.device, form_of_cells(law, g, out))
    if place not in _trusted:
        _trusted[place] = _check_cells(law, g, place[1].aligned)
    return _trusted[place]


def _check(job: Job) -> bool:
    """Whether the kernel computes a few thousand weights as the CPU does."""
    hardware, device, kind = job.hardware, job.columns.device, job.columns.dtype
    rows = 1032 if form_of(job, "").aligned else 1031
    columns = torch.linspace(-1, 1, 3 * rows).reshape(rows, 3).T.to(kind).float().contiguous()
    core = torch.from_numpy(hardware.effective_weight(columns.numpy(), Key(5).fold("check"), 3))
    scale = hardware.mapping.scale(columns.numpy())
    own, inverse = (torch.from_numpy(t).to(device) for t in (scale, hardware.mapping.inverse(scale)))
    there = columns.to(device, kind)
    out = torch.empty_like(there)
    jobs = [Job(hardware, there, Key(5).fold("check"), 3, own, inverse, out)]
    return _agrees(lambda: program_arrays(jobs), out, core)


def _check_cells(law: DriftModel, g: Tensor, aligned: bool) -> bool:
    """Whether `drift` computes a few thousand cells as the CPU does."""
    before = torch.linspace(0.5, 1, 3096 if aligned else 3095).to(g.dtype).float().numpy()
    core, there = np.empty_like(before), torch.from_numpy(before).to(g.device, g.dtype)
    stream, out = Stream(1, 2, 3, 4, 5), torch.empty_like(there)
    law.apply_plane(before, core, stream)
    return _agrees(lambda: drift(law, there, stream, out), out, torch.from_numpy(core))


def _agrees(compute: Callable[[], None], out: Tensor, core: Tensor) -> bool:
    """Whether `compute` writes what the CPU has computed into `out`; otherwise warn."""
    try:
        compute()
        gap = (out.float().cpu() - core).abs().max().item()
        why = f"differ by {gap:.3g}"
    except Exception as error:  # whatever a compiler or a driver may raise: there is another way to compute
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        gap, why = float("inf"), f"fail: {said[:200]}"
    close = 1e-5 if out.dtype == torch.float32 else 2e-2
    if gap <= close * core.abs().max().item():
        return True
    warnings.warn(
        f"Triton kernels on {out.device} {why}: conductances are computed by plain torch operations, which takes "
        "longer", RuntimeWarning, stacklevel=2,
    )  # fmt: skip
    return False
