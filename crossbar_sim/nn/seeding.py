"""The only module with stateful generators: initialisation, shuffling and dropout start here.

Everything that a chip does is drawn from the counter-based stream and never from these.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from crossbar_sim.errors import InputError
from crossbar_sim.rng import Key
from crossbar_sim.validate import is_int


@contextmanager
def seeded(key: Key) -> Iterator[None]:
    """Let torch's own generators, on the CPU and every CUDA device, start from `key`.

    Their states are put back at the end, also after an exception: the caller's stream is as it was.
    Not for use in several threads at once, because torch's default generators are the process's.

    >>> with seeded(Key(0).fold("initialisation")):
    ...     first = torch.nn.Linear(3, 2).weight
    >>> with seeded(Key(0).fold("initialisation")):
    ...     bool((torch.nn.Linear(3, 2).weight == first).all())
    True
    """
    # Said explicitly, or fork_rng warns on machines with several devices.
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(key.integer())  # noqa: TID251 (this is the one place for it)
        yield


def permutation(n: int, key: Key, device: torch.device | str | None = None) -> torch.Tensor:
    """A random order of 0 .. n - 1 that depends on `n` and `key` only.

    Drawn on the CPU with a generator of its own, and then moved: the order is the same on every
    device, and no other stream advances.

    Args:
        n: how many, >= 0.
        key: the name of the order.
        device: where the (n,) int64 result goes; `None` is the CPU.

    Raises:
        InputError: if n is no integer >= 0.
    """
    if not is_int(n) or n < 0:
        raise InputError(f"n={n!r}: an order is of an integer number >= 0 of things")
    generator = torch.Generator().manual_seed(key.integer())
    return torch.randperm(n, generator=generator, device="cpu").to(device or "cpu")


def whole_numbers(shape: tuple[int, ...], below: int, key: Key) -> torch.Tensor:
    """Integers 0 .. below - 1, each as likely, int64 on the CPU; they depend on the arguments only."""
    generator = torch.Generator().manual_seed(key.integer())
    return torch.randint(below, shape, generator=generator)


def uniforms(n: int) -> list[float]:
    """Numbers in 0 .. 1 from torch's generator on the CPU, which `seeded` starts."""
    return torch.rand(n).tolist()


def normals(n: int, device: torch.device) -> torch.Tensor:
    """Standard normals (n,) float32 of the device's own generator, which `seeded` starts: for GPUs.

    On the CPU the counter stream is several times faster, and is drawn by name.
    """
    return torch.empty(n, device=device).normal_()
