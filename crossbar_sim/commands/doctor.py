"""`crossbar-sim doctor`: versions, kernels and the machine."""

import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import click

from crossbar_sim.commands.options import command
from crossbar_sim.errors import InputError
from crossbar_sim.text import visible


@dataclass(frozen=True)
class DoctorRequest:
    """What `doctor` is to do: it has no options."""


@command(DoctorRequest)
def doctor(request: DoctorRequest) -> None:
    """Check that crossbar-sim works on this machine: versions, kernels, GPU and data.

    \b
    Example:
      crossbar-sim doctor
    """

    healthy = True
    for what, text, good in findings():
        click.echo(visible(f"{'ok ' if good else 'BAD'}  {what:<14} {text}"))
        healthy = healthy and good
    if not healthy:
        raise InputError(
            "crossbar-sim does not work correctly on this machine: see the lines marked BAD above"
        )


PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "numba",
    "llvmlite",
    "scipy",
    "h5py",
    "click",
    "rich",
    "matplotlib",
)


def findings() -> Iterator[tuple[str, str, bool]]:
    """(what, finding, all right) line by line, the quick ones first."""
    import crossbar_sim

    yield "crossbar-sim", f"{crossbar_sim.__version__}, Python {platform.python_version()}", True
    yield "machine", f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors", True
    for package in PACKAGES:
        try:
            yield package, importlib.metadata.version(package), True
        except importlib.metadata.PackageNotFoundError:
            optional = package == "torchvision"
            hint = "not installed; only torchvision's networks need it: pip install '.[vision]' in a clone"
            yield package, hint if optional else "missing: pip install crossbar-sim", optional
    yield from _kernels()
    yield from _torch()
    directory = os.environ.get("CROSSBAR_SIM_DATA")
    yield "data", f"$CROSSBAR_SIM_DATA = {directory}" if directory else "$CROSSBAR_SIM_DATA is not set", True


def _kernels() -> Iterator[tuple[str, str, bool]]:
    """The stream's known answer, and how fast drift is drawn."""
    import numpy as np

    from crossbar_sim.crossbar import kernels, threads
    from crossbar_sim.crossbar.drift import LogNormalDrift
    from crossbar_sim.crossbar.stream import Stream

    # Random123's known answer for a zero key and counter, and cells 0, 64, 128, 192 of that counter
    expected = np.array([0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8], np.uint32)
    right = bool((Stream(0, 0, 0, 0).words(256)[[0, 64, 128, 192]] == expected).all())
    yield "random stream", "Random123's known answer" if right else "WRONG: results cannot be trusted", right
    g = np.ones(threads.CHUNK, np.float32)
    out = np.empty_like(g)
    law, stream = LogNormalDrift(0.6), Stream(0, 0, 0, 0)
    law.cells(g, out, stream, 0)
    began = time.perf_counter()
    for _ in range(20):
        law.cells(g, out, stream, 0)
    rate = 20 * g.size / (time.perf_counter() - began)
    cached = bool(getattr(kernels.lognormal, "_cache", None)) and "NullCache" not in repr(
        kernels.lognormal._cache
    )
    yield "drift kernel", f"{rate / 1e6:.0f} M cells/s on one thread of {threads.threads()}", True
    yield (
        "kernel cache",
        "on disk" if cached else "none: kernels compile in every process (a few seconds)",
        True,
    )


def _torch() -> Iterator[tuple[str, str, bool]]:
    """The GPU, and which GEMM linear layers take."""
    import torch

    from crossbar_sim.nn.fast_operators import onednn_works

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none (--device cuda needs one)"
    yield "GPU", gpu, True
    yield "linear layers", "oneDNN" if onednn_works() else "torch's default GEMM", True
    yield "executable", sys.executable, True
