"""Arrays programmed by Triton kernels, all of a chip in one launch, where a card has been seen to compute them right.

A kernel is checked once, when its form is first used in a process: a few thousand cells against the CPU's kernels. A
form that fails, or cannot be compiled, is computed by the plain path (`planes.py`), and a warning says so.
"""

import functools
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from crossbar_sim.crossbar import drift as laws
from crossbar_sim.nn.tensor_cells.segments import GROUPS, INTEGERS, Form, Job, form_of, has_kernel, rows_of
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
    """Program arrays of one device: one launch for all of a form, and one for reference columns before it."""
    device, kept = jobs[0].columns.device, []
    references: dict[Form, list[Any]] = {}
    arrays: dict[Form, list[Any]] = {}
    for job in jobs:
        mapping, n, rows = job.hardware.mapping, job.columns.numel(), job.columns.shape[1]
        if n == 0:
            continue
        table = _table(job.hardware.drift, device)
        column = torch.empty(mapping.copies, rows, device=device) if mapping.planes_per_copy == 1 else table
        kept += [table, column]
        pair = mapping.planes_per_copy == 2
        if not pair:
            for plane in range(mapping.copies):
                made = rows_of(
                    job, n // 256 * 256, n + rows, plane, column[plane].data_ptr(), 0, table.data_ptr()
                )
                references.setdefault(form_of(job, "plane"), []).append(made)
        made = rows_of(job, 0, n, 0, job.out.data_ptr(), column.data_ptr(), table.data_ptr())
        arrays.setdefault(form_of(job, "pair" if pair else "reference"), []).append(made)
    for form, segments in [*references.items(), *arrays.items()]:
        _launch(form, segments, device)


def _table(law: Any, device: torch.device) -> Tensor:
    """The table of a gamma law, or something with an address."""
    if type(law) is laws.GammaDrift:
        return torch.from_numpy(laws.gamma_table(law)).to(device)
    return torch.empty(1, device=device)


def _launch(form: Form, segments: list[tuple[dict[str, int], list[float]]], device: torch.device) -> None:
    from crossbar_sim.nn.tensor_cells import triton_kernels

    blocks = 0
    owners = []
    for number, (integers, _) in enumerate(segments):
        integers["block"] = blocks
        own = -(-(integers["end"] - integers["first"]) // (256 * GROUPS))
        owners.append(torch.full((own,), number, dtype=torch.int32))
        blocks += own
    whole = torch.tensor([[integers[name] for name in INTEGERS] for integers, _ in segments]).to(device)
    real = torch.tensor([reals for _, reals in segments], dtype=torch.float64).to(device)
    kernel: Any = triton_kernels.program_arrays
    # contracting a product and a sum into one operation would round otherwise than the core
    kernel[(blocks,)](whole, real, torch.cat(owners).to(device), **constants(form), enable_fp_fusion=False)


def usable(job: Job) -> bool:
    """Whether an array is to be programmed by a kernel: on a card, with Triton, and its form computed right there."""
    device = job.columns.device
    if device.type != "cuda" or type(job.columns) is not Tensor or not _installed():
        return False
    if job.columns.dtype not in _KINDS or not has_kernel(job.hardware):
        return False
    place = (device, form_of(job, ""))
    if place not in _trusted:
        _trusted[place] = _check(job)
    return _trusted[place]


def _check(job: Job) -> bool:
    """Whether the kernel computes a few thousand weights as the CPU does."""
    hardware, device = job.hardware, job.columns.device
    columns = torch.linspace(-1, 1, 3 * 1031).reshape(1031, 3).T.contiguous()
    core = torch.from_numpy(hardware.effective_weight(columns.numpy(), Key(5).fold("check"), 3))
    scale = hardware.mapping.scale(columns.numpy())
    own, inverse = (torch.from_numpy(t).to(device) for t in (scale, hardware.mapping.inverse(scale)))
    there = columns.to(device, job.columns.dtype)
    try:
        out = torch.empty_like(there)
        program_arrays([Job(hardware, there, Key(5).fold("check"), 3, own, inverse, out)])
        gap = (out.float().cpu() - core).abs().max().item()
        why = f"differ by {gap:.3g}"
    except Exception as error:  # whatever a compiler or a driver may raise: there is another way to compute
        gap, why = (
            float("inf"),
            f"fail: {str(error).strip().splitlines()[0][:200] if str(error).strip() else error!r}",
        )
    close = 1e-5 if job.columns.dtype == torch.float32 else 2e-2
    if gap <= close * core.abs().max().item():
        return True
    warnings.warn(
        f"Triton kernels on {device} {why}: conductances are computed by plain torch operations, which takes longer",
        RuntimeWarning, stacklevel=2,
    )  # fmt: skip
    return False
