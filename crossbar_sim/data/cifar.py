"""CIFAR-10 as its authors publish it: six pickled batches of Python 2, in a folder or in their `.tar.gz`.

https://www.cs.toronto.edu/~kriz/cifar.html, "Python version".
"""

import gzip
import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from crossbar_sim.data.arrays import scaled
from crossbar_sim.data.dataset import Split, Splits, last_of_each_class
from crossbar_sim.data.images import check_file, check_memory, reason
from crossbar_sim.data.places import CIFAR10_FILES, CIFAR10_FOLDER, find_cifar10
from crossbar_sim.errors import InputError

# Arrays and lists out of a pickle, without running it.
#
# A pickle is a program for a stack machine that may call any function of Python. This is that machine with
# the instructions that arrays of bytes, lists and strings need, and no others: it imports nothing, calls
# nothing of the file's choice and keeps no more than the file is long. Python's own unpickler with a list
# of allowed names would still let a file allocate what it claims, through numpy or the machine's own memo.
#
# The instructions are those of Python's standard library, `pickletools.py`, protocols 0 to 4.


_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
ALLOWED = {
    **{(module, "_reconstruct"): "array" for module in _MODULES},
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
}
"""What a file may name, and what it stands for here; none of it is imported."""

_MARK = object()


@dataclass
class _Array:
    """An array under construction; `values` once its state is there."""

    values: np.ndarray | None = None


@dataclass(frozen=True)
class _Type:
    """A numpy dtype by its name, such as "u1"."""

    name: str


class _Refused(Exception):
    """What the file does, to be said behind its path."""


def read_pickle(path: Path, content: bytes) -> Any:
    """What a pickle of dicts, lists, tuples, strings, whole numbers and arrays of bytes holds.

    Args:
        path: what errors call it.
        content: the whole pickle.

    Returns:
        The object, with arrays as uint8 `numpy.ndarray` (read-only) in it, and strings of Python 2 as
        `str` in Latin-1.

    Raises:
        InputError: if it is damaged, or names or does anything else; nothing of it has run then.
    """
    try:
        return _plain(_Machine(content).run())
    except _Refused as error:
        raise InputError(f"{path}: {error}; give the official file") from None
    except (IndexError, UnicodeError, ValueError, KeyError, TypeError) as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise InputError(
            f"{path}: is no whole pickle ({text}); the file is damaged: fetch it again"
        ) from None


@dataclass
class _Machine:
    """The stack machine: the program, a place in it, a stack and a memory of objects made."""

    program: bytes
    at: int = 0
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    encoded: int = 0

    def run(self) -> Any:
        """Execute until STOP and return the top of the stack."""
        program, size = self.program, len(self.program)
        while True:
            if self.at >= size:
                raise _Refused("ends in the middle of a pickle")
            code = program[self.at]
            self.at += 1
            if code == 0x2E:  # STOP
                if self.at != size:
                    raise _Refused(f"holds {size - self.at} bytes behind the end of its pickle")
                if len(self.stack) != 1:
                    raise _Refused("is a pickle that leaves several objects")
                return self.pop()
            step = _STEPS.get(code)
            if step is None:
                raise _Refused(f"is a pickle with the instruction 0x{code:02x}, which data files do not need")
            step(self)

    def take(self, count: int) -> bytes:
        """The next `count` bytes of the program."""
        end = self.at + count
        if count < 0 or end > len(self.program):
            raise _Refused(f"claims {count} bytes and has {len(self.program) - self.at} left")
        taken = self.program[self.at : end]
        self.at = end
        return taken

    def number(self, width: int, signed: bool = False) -> int:
        """The next little-endian number of so many bytes."""
        return int.from_bytes(self.take(width), "little", signed=signed)

    def line(self) -> str:
        """The next line of text."""
        end = self.program.index(b"\n", self.at)
        text = self.program[self.at : end].decode("utf-8")
        self.at = end + 1
        return text

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def pop(self) -> Any:
        """Take a value, which is no mark, from the stack."""
        value = self.stack.pop()
        if value is _MARK:
            raise _Refused("is a pickle that takes what it did not put")
        return value

    def since_mark(self) -> list[Any]:
        """Take everything above the last mark, and the mark."""
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is _MARK:
                values = self.stack[i + 1 :]
                del self.stack[i:]
                return values
        raise _Refused("is a pickle that takes what it did not put")

    def last(self, kind: type) -> Any:
        """The top of the stack, which must be of this kind."""
        top = self.stack[-1]
        if type(top) is not kind:
            raise _Refused("is a pickle that fills what is no list or dict")
        return top

    def remember(self, index: int) -> None:
        """Keep the top of the stack under a number."""
        if self.stack[-1] is _MARK:
            raise _Refused("is a pickle that takes what it did not put")
        self.memo[index] = self.stack[-1]

    def fill(self, items: list[Any]) -> None:
        """Put keys and values, one after the other, into the dict on top of the stack.

        Only strings are keys: the hash of a deeply nested tuple would overflow the interpreter's stack.
        """
        target = self.last(dict)
        keys = items[0::2]
        if len(items) % 2 or not all(isinstance(key, str) for key in keys):
            raise _Refused("is a pickle of a dict whose keys are no strings")
        target.update(zip(keys, items[1::2], strict=True))

    def name(self, module: Any, name: Any) -> None:
        """A function or type, by name: only the known ones, and those as our own stand-ins."""
        kind = ALLOWED.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if kind is None:
            known = isinstance(module, str) and isinstance(name, str)
            asked = f"{module}.{name}"[:80] if known else "something without a name"
            raise _Refused(f"is a pickle that asks for {asked!r}, which is refused: data needs no code")
        self.push((_MARK, kind))

    def call(self) -> None:
        """What the known names do with their arguments."""
        arguments, callee = self.pop(), self.pop()
        kind = callee[1] if type(callee) is tuple and len(callee) == 2 and callee[0] is _MARK else None
        if kind == "array":
            self.push(_Array())
        elif kind == "dtype" and type(arguments) is tuple and isinstance(arguments[0], str):
            self.push(_Type(arguments[0]))
        elif kind == "encode" and type(arguments) is tuple and arguments[1:] in (("latin1",), ("latin-1",)):
            self.push(self.encode(arguments[0]))
        else:
            raise _Refused("is a pickle that calls something in an unknown way")

    def encode(self, text: Any) -> bytes:
        """A string's characters as bytes: in all no more than the file has, however often it asks."""
        raw = text.encode("latin-1") if isinstance(text, str) else b""
        self.encoded += len(raw)
        if self.encoded > len(self.program):
            raise _Refused("is a pickle that grows beyond its own length")
        return raw

    def build(self) -> None:
        """Give an array or a dtype its state."""
        state, target = self.pop(), self.stack[-1]
        if type(target) is _Type:
            return
        if type(target) is not _Array or type(state) is not tuple or len(state) != 5:
            raise _Refused("is a pickle that gives a state to what is no array")
        _, shape, dtype, fortran, raw = state
        if type(dtype) is not _Type or dtype.name not in ("u1", "|u1"):
            kind = dtype.name[:20] if type(dtype) is _Type else "no dtype"
            raise _Refused(f"is a pickle with an array of {kind!r}; pixels are 'u1'")
        data = self.encode(raw) if isinstance(raw, str) else raw
        sides = type(shape) is tuple and all(type(side) is int and side >= 0 for side in shape)
        count = 1
        for side in shape if sides else ():
            count *= side
            if count > len(self.program):
                break
        if not sides or len(shape) > 8 or not isinstance(data, bytes) or count != len(data):
            # A shape that is no shape is not quoted: printing deep nesting would overflow.
            claim = str(shape)[:60] if sides and len(shape) <= 8 else "no shape at all"
            length = len(data) if isinstance(data, bytes) else 0
            raise _Refused(f"holds an array that claims {claim} and has {length} bytes")
        values = np.frombuffer(data, dtype=np.uint8)
        target.values = values.reshape(shape, order="F" if fortran is True else "C")


def _plain(value: Any) -> Any:
    """The object with arrays as arrays: at the top, or in a dict at the top."""
    if type(value) is _Array:
        if value.values is None:
            raise _Refused("is a pickle with an array that has no values")
        return value.values
    if type(value) is dict:
        return {key: _plain(item) if type(item) is _Array else item for key, item in value.items()}
    return value


def _text(machine: _Machine, width: int, encoding: str) -> None:
    machine.push(machine.take(machine.number(width)).decode(encoding, "surrogatepass"))


def _binary(machine: _Machine, width: int) -> None:
    machine.push(machine.take(machine.number(width)))


def _tuple(machine: _Machine, count: int) -> None:
    machine.push(tuple(reversed([machine.pop() for _ in range(count)])))


def _append(machine: _Machine) -> None:
    value = machine.pop()
    machine.last(list).append(value)


def _append_all(machine: _Machine) -> None:
    values = machine.since_mark()
    machine.last(list).extend(values)


def _set(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.fill([key, value])


def _stack_name(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.name(module, name)


def _protocol(machine: _Machine) -> None:
    version = machine.number(1)
    if version > 4:
        raise _Refused(f"is a pickle of protocol {version}; 0 to 4 are read")


_STEPS: dict[int, Callable[[_Machine], Any]] = {
    ord("\x80"): _protocol,
    ord("\x95"): lambda m: m.number(8),  # FRAME: a hint for reading ahead
    ord("("): lambda m: m.push(_MARK),
    ord("N"): lambda m: m.push(None),
    ord("\x88"): lambda m: m.push(True),
    ord("\x89"): lambda m: m.push(False),
    ord("K"): lambda m: m.push(m.number(1)),
    ord("M"): lambda m: m.push(m.number(2)),
    ord("J"): lambda m: m.push(m.number(4, True)),
    ord("U"): lambda m: _text(m, 1, "latin-1"),
    ord("T"): lambda m: _text(m, 4, "latin-1"),
    ord("\x8c"): lambda m: _text(m, 1, "utf-8"),
    ord("X"): lambda m: _text(m, 4, "utf-8"),
    ord("C"): lambda m: _binary(m, 1),
    ord("B"): lambda m: _binary(m, 4),
    ord("}"): lambda m: m.push({}),
    ord("]"): lambda m: m.push([]),
    ord(")"): lambda m: m.push(()),
    ord("t"): lambda m: m.push(tuple(m.since_mark())),
    ord("\x85"): lambda m: _tuple(m, 1),
    ord("\x86"): lambda m: _tuple(m, 2),
    ord("\x87"): lambda m: _tuple(m, 3),
    ord("a"): _append,
    ord("e"): _append_all,
    ord("s"): _set,
    ord("u"): lambda m: m.fill(m.since_mark()),
    ord("q"): lambda m: m.remember(m.number(1)),
    ord("r"): lambda m: m.remember(m.number(4)),
    ord("\x94"): lambda m: m.remember(len(m.memo)),
    ord("h"): lambda m: m.push(m.memo[m.number(1)]),
    ord("j"): lambda m: m.push(m.memo[m.number(4)]),
    ord("c"): lambda m: m.name(m.line(), m.line()),
    ord("\x93"): _stack_name,
    ord("R"): lambda m: m.call(),
    ord("b"): lambda m: m.build(),
}


VALIDATION = 0.1
_PIXELS = 3 * 32 * 32
_LARGEST = 64 * 2**20
"""No batch is larger than this (the official ones have 31 MB): it bounds what a hostile one can cost."""


def load_cifar10(data_dir: Path | None = None) -> Splits:
    """CIFAR-10 (Krizhevsky, 2009): 50,000 images to develop with and 10,000 to test on.

    Args:
        data_dir: see `places.find_cifar10`.

    Returns:
        x (n, 3, 32, 32) in 0 .. 1: bytes divided by 255 and nothing else; y in 0 .. 9. Validation is
        the last tenth of every class in the order of the files: 500 of 5,000.

    Raises:
        InputError: if a file is missing or is not what CIFAR-10 holds; the sentence names it.
    """
    place = find_cifar10(data_dir)
    images: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    labels: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    with _batches(place) as batches:
        for part, path, content in batches:
            pixels, classes = _batch(path, content)
            images[part].append(pixels)
            labels[part].append(classes)
    x = {part: np.concatenate(each).reshape(-1, 3, 32, 32) for part, each in images.items()}
    y = {part: np.concatenate(each) for part, each in labels.items()}
    check_memory(place, 5 * (x["train"].size + x["test"].size))
    kept, held = last_of_each_class(y["train"], VALIDATION)
    if len(held) == 0:
        raise InputError(
            f"{place}: holds too few images; 10 of one class are enough, of which the last "
            "is the validation split"
        )
    train, validation = (
        Split(scaled(x["train"][part]), torch.from_numpy(y["train"][part]))
        for part in (kept.numpy(), held.numpy())
    )
    test = Split(scaled(x["test"]), torch.from_numpy(y["test"]))
    notes = (
        "pixel values 0 .. 255 divided by 255, nothing subtracted",
        "validation is the last tenth of every class of the training batches",
    )
    return Splits("cifar10", train, validation, test, 10, notes)


def _batch(path: Path, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """A batch's pixels (n, 3072) uint8 and labels (n,) int64."""
    batch = read_pickle(path, content)
    if not isinstance(batch, dict) or not {"data", "labels"} <= batch.keys():
        raise InputError(f"{path}: has no data and labels; give the official file")
    pixels, labels = batch["data"], batch["labels"]
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.ndim != 2
        or pixels.shape[1] != _PIXELS
        or not len(pixels)
    ):
        shape = pixels.shape if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise InputError(f"{path}: its data is {shape}; CIFAR-10's is (n, 3072) bytes, 3 x 32 x 32 pixels")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise InputError(f"{path}: its labels are no list of whole numbers; give the official file")
    if len(labels) != len(pixels):
        raise InputError(
            f"{path}: holds {len(labels)} labels and {len(pixels)} images; give the official file"
        )
    wrong = next((label for label in labels if not 0 <= label <= 9), None)
    if wrong is not None:
        raise InputError(f"{path}: holds label {str(wrong)[:20]}; CIFAR-10's are 0 .. 9")
    return pixels, np.array(labels, dtype=np.int64)


@contextmanager
def _batches(place: Path) -> Iterator[Iterator[tuple[str, Path, bytes]]]:
    """The batches as (train or test, path, bytes), in their order."""
    if place.is_dir():
        yield ((part, place / name, _content(place / name)) for part, name in _NAMES)
        return
    try:
        members = dict(_archived(place))
    except InputError:
        raise
    except Exception as error:
        # tarfile and gzip raise a dozen kinds on hostile bytes: TarError, EOFError, zlib.error, ...
        raise InputError(f"{place}: is no readable .tar.gz ({reason(error)}); fetch it again") from None
    missing = [name for _, name in _NAMES if name not in members]
    if missing:
        raise InputError(f"{place}: has no {', '.join(missing)} in {CIFAR10_FOLDER}; fetch it again")
    yield ((part, place / name, members[name]) for part, name in _NAMES)


_NAMES = [(part, name) for part, names in CIFAR10_FILES.items() for name in names]


def _content(path: Path) -> bytes:
    """The bytes of a batch in a folder."""
    _check_size(path, check_file(path))
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)})") from None


def _check_size(path: Path, size: int) -> None:
    if size > _LARGEST:
        raise InputError(
            f"{path}: has {size} bytes; a batch of CIFAR-10 has 31 million: give the official file"
        )


def _archived(place: Path) -> Iterator[tuple[str, bytes]]:
    """The batches in the archive, which is read from front to end and nothing of it written."""
    check_file(place)
    wanted = {f"{CIFAR10_FOLDER}/{name}": name for _, name in _NAMES}
    with gzip.open(place) as stream:
        limited: Any = _Limited(place, stream, 16 * _LARGEST)  # type: ignore[arg-type]
        with tarfile.open(fileobj=limited, mode="r|") as archive:
            for member in archive:
                name = wanted.get(member.name)
                if name is None or not member.isreg():
                    continue
                _check_size(place / name, member.size)
                file = archive.extractfile(member)
                yield name, b"" if file is None else file.read()


class _Limited(io.RawIOBase):
    """A stream that refuses to give more than `most` bytes: an archive may unpack without end."""

    def __init__(self, path: Path, stream: BinaryIO, most: int) -> None:
        self.path, self.stream, self.left, self.most = path, stream, most, most

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        chunk = self.stream.read(min(size, 2**20) if size >= 0 else 2**20)
        self.left -= len(chunk)
        if self.left < 0:
            raise InputError(f"{self.path}: unpacks to more than {self.most} bytes; give the official file")
        return chunk
