"""The first evaluation of an archived model, tried in a child process.

Operators of torch end the whole process where one of their arguments makes them read outside of a tensor, and a graph
may need all memory or never end. The list of operators and their checks (`operators`, `operator_bounds`)
leave little of that, but no list is complete. So the first inputs go through the graph in a forked child process,
whose memory and processor time are limited. A child that fails proves little, since a fork of a process with many
threads can fail for reasons of its own; the same inputs are then tried in a new interpreter, whose result decides.
"""

import ctypes
import faulthandler
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crossbar_sim.data.inputs import Inputs, call
from crossbar_sim.errors import InputError
from crossbar_sim.nn.pickling import packed, unpacked

if sys.platform != "win32":
    import resource

SECONDS = 300.0
"""Processor time for the first two inputs; all of them get as much again, and eight times what two took for each two.
A graph that takes no batch of two gets four times as much for all its inputs."""

STALLED = 30.0
"""Seconds without any work of the child, which then waits for a thread that the fork left behind."""

_ROWS = 2
_POLL = 0.25
_ROOM = 4 << 30
_DONE, _MEMORY = b"d", b"m"
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class _Call(Inputs):
    """The arguments of any call: a caller of a loaded module may give tensors of different lengths, or none."""

    def __post_init__(self) -> None:
        """Nothing is refused."""

    def __len__(self) -> int:
        return min((len(tensor) for _, tensor in self.named()), default=1)


class FirstRun:
    """A forward pre-hook of an archived model: its first inputs go through a child process before this one.

    Copies of the model share it, so that each file is tried once per process. Forking needs no
    `if __name__ == "__main__":` of the caller and costs some hundredths of a second. Nothing is tried where processes
    cannot be forked safely (Windows, macOS), and for inputs on a GPU, whose operators cannot end the process by a
    wrong address.

    Args:
        model: the archived model, clean.
    """

    def __init__(self, model: nn.Module | None) -> None:
        # The child holds the lock of the thread that forked it, and passes here again.
        self.model, self.done, self.lock = model, model is None, threading.RLock()

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises InputError if the child crashes, needs too much memory or does not end."""
        values = (*args, *kwargs.values())
        if self.done or not all(type(x) is Tensor and x.device.type == "cpu" for x in values):
            return
        with self.lock:
            if self.model is None:
                return
            model, self.model = self.model, None
            try:
                if sys.platform == "linux":
                    _try(model, _Call(args, kwargs))
            except BaseException:
                self.model = model
                raise
            self.done = True

    def __deepcopy__(self, memo: dict[int, Any]) -> "FirstRun":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process: the model was tried in this one, or is sent to be tried."""
        return FirstRun, (None,)


def try_first(model: nn.Module) -> None:
    """Let the first evaluation of an archived model, or of a copy of it, go through a child process."""
    model.register_forward_pre_hook(FirstRun(model), prepend=True, with_kwargs=True)


def _try(model: nn.Module, inputs: Inputs) -> None:
    """Raise InputError if the inputs fail in a forked child and in a new interpreter."""
    failure = _forked(model, inputs)
    if failure is not None:
        failure = _in_new_interpreter(model, inputs, failure)
    if failure == "memory":
        raise InputError(
            "the archive's graph needs more memory for its first inputs than is available: export a smaller model, or "
            "use smaller inputs"
        )
    if failure == "time":
        raise InputError(
            "the archive's graph does not end in the time allowed for its first inputs "
            f"({SECONDS:g} s of processor time for two of them): it is too large, or made never to end"
        )
    if failure is not None:
        raise InputError(
            f"the archive's graph crashes torch {torch.__version__} on its first inputs ({failure}, in a child "
            "process): the file is damaged or made to do so; export the model again"
        )


def _forked(model: nn.Module, inputs: Inputs) -> str | None:
    """None if the inputs go through the model in a forked child, else how the child failed."""
    limit = _address_space()
    reader, writer = os.pipe()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python 3.12 warns of threads, which the child does not need
            pid = os.fork()
    except OSError:  # too little memory, or too many processes
        os.close(reader)
        os.close(writer)
        return "no child process could be started"
    if pid == 0:
        _child(model, inputs, writer, limit, SECONDS)
    os.close(writer)
    result, ended, status = b"", False, None
    try:
        result, ended = _result(reader, pid)
    finally:
        os.close(reader)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):  # the caller ignores SIGCHLD
            status = os.waitpid(pid, 0)[1]
    return _failure(result, ended, None if status is None else os.waitstatus_to_exitcode(status))


def _in_new_interpreter(model: nn.Module, inputs: Inputs, failure: str) -> str | None:
    """The same in an interpreter that shares nothing with this process; where none can be had, a crash stays one."""
    known = failure if failure == "memory" or failure.startswith(("SIG", "exit")) else None
    try:
        data = packed((model, inputs))
        reader, writer = os.pipe()
    except (InputError, OSError, MemoryError):
        return known
    folders = os.pathsep.join(folder for folder in sys.path if folder)
    command = f"from {__name__} import answer; answer({writer}, {_address_space(own=False)}, {SECONDS!r})"
    try:
        with subprocess.Popen(
            [sys.executable, "-P", "-c", command],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[writer],
            env={**os.environ, "PYTHONPATH": folders},
        ) as process:  # fmt: skip
            os.close(writer)
            writer = -1
            try:
                with suppress(BrokenPipeError):
                    if process.stdin is not None:
                        process.stdin.write(data)
                        process.stdin.close()
                result, ended = _result(reader, process.pid)
            finally:
                process.kill()
            code = process.wait()
    except (OSError, ValueError):
        return known
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    if result == b"" and code == _NOT_STARTED:
        return known
    return _failure(result, ended, code)


_NOT_STARTED = 3


def answer(writer: int, limit: int, seconds: float) -> None:
    """The new interpreter's part: reads the model and its inputs from standard input, and never returns.

    Args:
        writer: file descriptor of the pipe for the result.
        limit: bytes of address space.
        seconds: see `SECONDS`.
    """
    try:
        model, inputs = unpacked(sys.stdin.buffer.read())
    except BaseException:
        os._exit(_NOT_STARTED)
    _child(model, inputs, writer, limit, seconds)


def _failure(result: bytes, ended: bool, code: int | None) -> str | None:
    """None, "memory", "time" or how the process ended (`subprocess`'s return code), from what it wrote."""
    if result == _DONE:
        return None
    if not ended or code == -signal.SIGXCPU:
        return "time"
    if result == _MEMORY or code == -signal.SIGKILL:  # by the kernel, which has no memory left
        return "memory"
    if code is None:
        return "an unknown end"
    return signal.Signals(-code).name if code < 0 else f"exit {code}"


def _result(reader: int, pid: int) -> tuple[bytes, bool]:
    """What the child wrote, and whether it ended by itself."""
    poll, idle, before = select.poll(), 0, -1
    poll.register(reader, select.POLLIN)
    while idle * _POLL < STALLED:
        if poll.poll(_POLL * 1000):
            # The end of the pipe may never come: another thread's child, forked at the same time, holds it too.
            return os.read(reader, 16), True
        now = _work(pid)
        if now == _ENDED:
            return os.read(reader, 16) if poll.poll(0) else b"", True
        idle, before = (idle + 1 if now == before else 0), now
    return b"", False


_ENDED = -2


def _work(pid: int) -> int:
    """Clock ticks of a process; it is idle if they stay. `_ENDED` of one that waits for nothing but its caller."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if state in "ZX":
            return _ENDED
        return time.monotonic_ns() if state != "S" else int(rest[10]) + int(rest[11])
    except (OSError, ValueError, IndexError):
        return 0


def _child(model: nn.Module, inputs: Inputs, writer: int, limit: int, seconds: float) -> None:
    """Never returns: evaluates two inputs first, to detect endless evaluations early, then all of them."""
    try:
        torch.set_num_threads(1)  # before any operator: threads of the caller do not exist here
        _leave_the_caller()
        _limit(limit)
        _limit_time(time.process_time() + seconds)
        count = len(inputs)
        with torch.inference_mode():
            began, rest = time.process_time(), 4 * seconds
            if count > _ROWS:
                with suppress(Exception):  # a graph for another batch size: what it says of it is not wanted
                    call(model, inputs[:_ROWS].clone())
                    rest = seconds + 8 * (time.process_time() - began) * math.ceil(count / _ROWS)
            _limit_time(time.process_time() + rest)
            call(model, inputs.clone())
        os.write(writer, _DONE)
    except MemoryError:
        os.write(writer, _MEMORY)
    except BaseException as error:
        # Other errors are the parent's to raise, when it runs the graph.
        short = any(words in str(error) for words in ("allocate memory", "bad_alloc", "not enough memory"))
        os.write(writer, _MEMORY if short else _DONE)
    finally:
        os._exit(0)


def _leave_the_caller() -> None:
    """Detach from the caller: no signal handlers, no terminal; end with the caller, and first when memory is short."""
    if _LIBC is not None:
        _LIBC.prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    faulthandler.disable()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    with suppress(OSError):
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(score, b"1000")


def _address_space(own: bool = True) -> int:
    """Bytes that a child may map: what is free, but several GiB at least, beyond what this process maps (`own`)."""
    free = math.inf
    with suppress(OSError, ValueError, IndexError, KeyError):
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = sum(int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "SwapFree"))
    with suppress(OSError, ValueError):  # "max"
        free = min(free, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    mapped = 1 << 34  # an interpreter with torch, its libraries included
    if own:
        with suppress(OSError, ValueError, IndexError):
            mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return -1 if free == math.inf else int(mapped + max(free, _ROOM) + _ROOM // 4)


def _limit(most: int) -> None:
    """Limit the address space, without a core file of it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if most >= 0:
        resource.setrlimit(resource.RLIMIT_AS, (most if hard < 0 else min(most, hard), hard))


def _limit_time(seconds: float) -> None:
    """Limit the processor time of this process, all of it."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    most = math.ceil(min(seconds, 1e9))
    resource.setrlimit(resource.RLIMIT_CPU, (most if hard < 0 else min(most, hard), hard))
