"""The Triton kernels without a GPU: in Triton's interpreter against the CPU kernels, and compiled for a card."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from crossbar_sim import Differential, Hardware, Key, LogNormalDrift
from crossbar_sim.nn.tensor_cells import fused
from crossbar_sim.nn.tensor_cells.segments import Form, Job, form_of

pytest.importorskip("triton")
TESTS = Path(__file__).parents[2]


def test_every_law_mapping_and_noise_has_the_bits_of_the_cpu_kernels():
    command = [sys.executable, "-m", "helpers.triton_cells", "900", "designs"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    model = found.pop("one launch")
    assert model["differ"] == 0
    assert (model["launches"], model["arrays"]) == (1, 4)  # weights and drifting biases of two layers
    assert len(found) > 20
    assert {name: row for name, row in found.items() if row["differ"] or row["weights"] < 900} == {}


def _wrong(jobs):
    for job in jobs:
        job.out.copy_(job.columns)


def _failing(jobs):
    raise RuntimeError("ptxas: no such target")


@pytest.mark.parametrize(("broken", "said"), [(_wrong, "differ by"), (_failing, "fail: ptxas")])
def test_a_card_that_computes_otherwise_is_warned_of_and_not_used(monkeypatch, broken, said):
    monkeypatch.setattr(fused, "program_arrays", broken)
    one, job = torch.ones(1), torch.zeros(2, 4)
    with pytest.warns(RuntimeWarning, match=f"Triton kernels on cpu {said}.*plain torch"):
        assert not fused._check(
            Job(Hardware(drift=LogNormalDrift(0.5)), job, Key(0), 0, one, one, torch.zeros(2, 4))
        )


def compiled_for(form: Form) -> str:
    """The PTX of the kernel on compute capability 9.0, which the assembler takes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from crossbar_sim.nn.tensor_cells import triton_kernels

    kernel = triton_kernels.program_arrays
    names, constants = list(kernel.arg_names), fused.constants(form)
    tables = {"integers": "*i64", "reals": "*fp64", "segment_of": "*i32"}
    source = ASTSource(
        fn=kernel,
        signature={name: tables.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
    )
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False})
    assert len(made.asm["cubin"]) > 1000
    return str(made.asm["ptx"])


def test_the_kernel_compiles_for_a_card_and_reads_and_writes_whole_vectors_without_flushing():
    columns, one = torch.zeros(64, 64), torch.ones(1)
    hardware = Hardware(Differential(0, 1e-4), drift=LogNormalDrift(0.6), drift_per="weight")
    ptx = compiled_for(
        form_of(Job(hardware, columns, Key(0), 0, one, one, torch.zeros_like(columns)), "pair")
    )
    assert ptx.count("ld.global.v4.b32") == ptx.count("st.global.v4.b32") == 4
    assert ".ftz" not in ptx  # subnormal numbers are kept, as on the CPU
    assert "sqrt.rn.f32" in ptx
