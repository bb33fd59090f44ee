"""The first evaluation of an archived model, tried in a child process.

Operators of torch end the whole process where one of their arguments makes them read outside of a tensor, and a graph
may ask for all memory or never end. The list of operators and their checks (`archive_operators`, `archive_bounds`)
leave little of that, but no list is complete. So the first inputs go through the graph in a child process, whose
memory and time are limited; what happens to it is said in one sentence, and the caller's process goes on.
"""

import os
import select
import signal
import sys
import threading
import time
import warnings
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from crossbar_sim.errors import InputError

SECONDS = 60.0
"""For the first two inputs; the whole batch has as long, and four times as long as these took, per input."""

_ROWS = 2
_STARTED, _DONE, _MEMORY = b"s", b"d", b"m"


class FirstRun:
    """A forward pre-hook of an archived model: its first inputs go through a child process before this one.

    Copies of the model share it, so that each file is tried once per process. It forks, which needs no
    `if __name__ == "__main__":` of the caller and costs some hundredths of a second; the child computes on one thread,
    since it has none but its own. Nothing is tried where processes cannot be forked safely (Windows, macOS), and for
    inputs on a GPU, whose operators cannot end the process by an address that is wrong.

    Args:
        model: the archived model, clean.
    """

    def __init__(self, model: nn.Module | None) -> None:
        # The child holds the lock of the thread that forked it, and passes here again.
        self.model, self.done, self.lock = model, model is None, threading.RLock()

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Raises InputError if the child crashes, needs too much memory or does not end."""
        if self.done or not all(type(x) is Tensor and x.device.type == "cpu" for x in inputs):
            return
        with self.lock:
            if self.model is None:
                return
            model, self.model = self.model, None
            try:
                if sys.platform == "linux":
                    _try(model, inputs)
            except BaseException:
                self.model = model
                raise
            self.done = True

    def __deepcopy__(self, memo: dict[int, Any]) -> "FirstRun":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process: the model was tried in this one, or is sent before it was ever run."""
        return FirstRun, (None,)


def try_first(model: nn.Module) -> None:
    """Let the first evaluation of an archived model, or of a copy of it, go through a child process."""
    model.register_forward_pre_hook(FirstRun(model), prepend=True)


def _try(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of threads, which the child does not need
        pid = os.fork()
    if pid == 0:
        _child(model, inputs, writer)
    os.close(writer)
    try:
        told, ended = _told(reader, len(inputs[0]) if inputs and inputs[0].dim() else 1)
    finally:
        os.close(reader)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    if told.endswith(_DONE):
        return
    if told.endswith(_MEMORY):
        raise InputError(
            "the archive's graph asks for more memory than there is: export a smaller model, or use smaller inputs"
        )
    if not ended:
        raise InputError(
            "the archive's graph does not end in the time allowed for its first inputs, so it is not run: export the "
            "model again"
        )
    how = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {status >> 8}"
    raise InputError(
        f"the archive's graph crashes torch {torch.__version__} on its first inputs ({how}, in a child process): the "
        "file is damaged or made to do so; export the model again"
    )


def _told(reader: int, rows: int) -> tuple[bytes, bool]:
    """What the child wrote, and whether it ended by itself."""
    told, limit = b"", SECONDS
    began = time.monotonic()
    while True:
        ready, _, _ = select.select([reader], [], [], max(0.0, began + limit - time.monotonic()))
        if not ready:
            return told, False
        new = os.read(reader, 16)
        if not new:
            return told, True
        told += new
        if told == _STARTED:
            limit = 2 * SECONDS + (time.monotonic() - began) * (1 + 4 * rows / _ROWS)


def _child(model: nn.Module, inputs: tuple[Tensor, ...], writer: int) -> None:
    """Never returns: two inputs first, which show what never ends, then all of them."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        _limit_memory()
        torch.set_num_threads(1)
        with torch.inference_mode():
            if all(x.dim() and len(x) > _ROWS for x in inputs):
                with suppress(Exception):  # a graph for another batch size: what it says of it is not wanted
                    model(*(x[:_ROWS].clone() for x in inputs))
            os.write(writer, _STARTED)
            model(*(x.clone() for x in inputs))
        os.write(writer, _DONE)
    except MemoryError:
        os.write(writer, _MEMORY)
    except Exception as error:
        # Other errors are the parent's to raise, when it runs the graph.
        os.write(writer, _MEMORY if "allocate memory" in str(error) else _DONE)
    finally:
        os._exit(0)


def _limit_memory() -> None:
    """Let this process take what memory is free, beyond what it has."""
    import resource  # which Windows does not have

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, ValueError, IndexError):
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        free = int(lines["MemAvailable"].split()[0]) * 1024
        with open("/proc/self/statm", encoding="ascii") as file:
            mapped = int(file.read().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = mapped + free
        resource.setrlimit(resource.RLIMIT_AS, (most if hard < 0 else min(most, hard), hard))
