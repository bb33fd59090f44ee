"""The reader of pickles reads what data files hold, and runs nothing."""

import builtins
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossbar_sim.data.cifar import read_pickle
from crossbar_sim.errors import InputError

PATH = Path("some/batch")
PIXELS = (np.arange(60) % 251).astype(np.uint8).reshape(5, 12)


def refused(content: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        read_pickle(PATH, content)
    assert str(PATH) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def text(value: str) -> bytes:
    """SHORT_BINSTRING, as Python 2 wrote strings."""
    return b"U" + bytes([len(value)]) + value.encode("latin-1")


def python2(values: np.ndarray) -> bytes:
    """An array as Python 2 wrote it, from the description of the instructions."""
    shape = b"".join(b"M" + side.to_bytes(2, "little") for side in values.shape)
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01("
        + shape
        + b"tcnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + values.nbytes.to_bytes(4, "little")
        + values.tobytes()
        + b"tb"
    )


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_python_3_writes_is_read(protocol: int) -> None:
    labels = [3, 300, 70_000, -1]
    given = {"data": PIXELS, "labels": labels, "name": "ü", "none": None, "yes": True, "pair": (1, (), [[]])}
    read = read_pickle(PATH, pickle.dumps(given, protocol=protocol))
    np.testing.assert_array_equal(read.pop("data"), PIXELS)
    given.pop("data")
    assert read == given


def test_what_python_2_wrote_is_read() -> None:
    content = b"\x80\x02}(" + text("data") + python2(PIXELS) + text("labels") + b"](K\x01K\x09eu."
    assert pickle.loads(content, encoding="latin-1")["labels"] == [1, 9]  # the bytes above are a pickle
    read = read_pickle(PATH, content)
    np.testing.assert_array_equal(read["data"], PIXELS)
    assert read["labels"] == [1, 9]


def test_the_order_of_an_array_is_kept() -> None:
    turned = np.asfortranarray(PIXELS)
    read = read_pickle(PATH, pickle.dumps({"data": turned}, protocol=2))
    np.testing.assert_array_equal(read["data"], PIXELS)


class Calls:
    """Pickled, it asks for a call of `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
@pytest.mark.parametrize(
    ("function", "asked"),
    [(os.system, "system"), (builtins.eval, "eval"), (builtins.getattr, "getattr"), (np.load, "load")],
)
def test_code_is_named_and_never_run(tmp_path: Path, protocol: int, function: Any, asked: str) -> None:
    mark = tmp_path / "ran"
    hostile = {"data": Calls(function, f"touch {mark}"), "labels": [1]}
    content = pickle.dumps(hostile, protocol=protocol)
    refused(content, rf"names '[\w.]*{asked}'.*refused" if protocol else "KeyError")
    assert not mark.exists()


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
TEXT = b"c_codecs\nencode\n" + text("x" * 60)
DAMAGED = "cannot be unpickled"

HOSTILE = [
    (b"cnumpy\nload\n", "names 'numpy.load'"),
    (b"cnumpy.core.multiarray\nscalar\n", "names 'numpy.core.multiarray.scalar'"),
    (b"c_codecs\ndecode\n", "names '_codecs.decode'"),
    (b"cbuiltins\nnumpy\n", "names 'builtins.numpy'"),
    (b"\x8c\x02os\x8c\x06system\x93", "names 'os.system'"),
    (b"](K\x01e\x8c\x06system\x93", DAMAGED),
    # known names in another use: none of them is called, and no result is an array
    (b"}" + text("data") + TEXT + text("utf-7") + b"\x86Rs", "no values"),
    (b"}" + text("data") + b"cnumpy\nndarray\nK\x05\x85Rs", "no values"),
    (b"c_codecs\nencode\nK\x05R", DAMAGED),
    (b"c_codecs\nencode\n(K\x05K\x05K\x05K\x05tR", DAMAGED),
    (b"cnumpy\ndtype\n)R", DAMAGED),
    (b"cnumpy\ndtype\n}b", DAMAGED),
    (b"K\x05K\x06\x85R", DAMAGED),
    (b"]K\x01b", DAMAGED),
    (b"}" + text("data") + ARRAY + b"s", "no values"),
    # stacks that are not as the instructions need them
    (b"(", DAMAGED),
    (b"K\x01e", DAMAGED),
    (b"h\x07", DAMAGED),
    (b"K\x01K\x02a", DAMAGED),
    (b"}K\x01K\x02s", "keys are not strings"),
    (b"}(K\x01u", "keys are not strings"),
    (b"}(U\x01au", DAMAGED),
    # instructions that data does not need
    *((code + b"\x01a\nb\n", DAMAGED) for code in (
        b"i", b"o", b"\x81", b"\x92", b"\x82", b"\x83", b"\x84", b"P", b"Q", b"\x8b", b"\x8f", b"\x91", b"2",
    )),
]  # fmt: skip


@pytest.mark.parametrize(("program", "says"), HOSTILE)
def test_pickles_of_anything_else_are_refused(program: bytes, says: str) -> None:
    refused(b"\x80\x04" + program + b".", says)


def test_an_array_must_have_the_bytes_that_its_shape_claims() -> None:
    good = pickle.dumps({"data": PIXELS}, protocol=2)
    for shape in (
        b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86",
        b"J\xff\xff\xff\xffJ\xc4\xff\xff\xff\x86",
        b")",
        b"K\x3c",
    ):
        refused(good.replace(b"K\x05K\x0c\x86", shape), "has 60 bytes")
    refused(good.replace(b"K\x05K\x0c\x86", b"K\x05K\x0d\x86"), r"claims shape \(5, 13\) and has 60 bytes")
    refused(pickle.dumps({"data": PIXELS.astype(np.int64)}, protocol=2), "array of 'i8'; pixels are 'u1'")
    refused(pickle.dumps({"data": np.array([None])}, protocol=2), "'O")


def test_damaged_pickles_are_refused() -> None:
    good = pickle.dumps({"data": PIXELS, "labels": [1, 2, 3]}, protocol=2)
    for end in range(len(good)):
        refused(good[:end], f"{DAMAGED}|pickle|shape")
    refused(good + b"!", "behind the end")


def test_deep_nesting_and_loops_are_no_danger() -> None:
    deep = b")" + b"\x85" * 300_000
    assert type(read_pickle(PATH, b"\x80\x02" + deep + b".")) is tuple
    refused(b"\x80\x02}" + deep + b"K\x01s.", "keys are not strings")  # its hash would overflow
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    state = b"(K\x01" + deep + dtype + b"\x89U\x01atb"
    refused(b"\x80\x02}" + text("data") + ARRAY + state + b"s.", "claims shape")
    loop = read_pickle(PATH, b"\x80\x02]q\x00h\x00a.")
    assert loop[0] is loop


BOMBS = {
    "a string of 2 GiB": b"T\xff\xff\xff\x7f",
    "bytes of 4 GiB": b"B\xff\xff\xff\xff",
    "a memory of 2**32 objects": b"]r\xff\xff\xff\xff",
    "a frame of 2**63": b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f].",
    "an array of 2**60": pickle.dumps({"data": PIXELS}, protocol=2)[2:-1].replace(
        b"K\x05K\x0c\x86", b"J\0\0\0\x40J\0\0\0\x40\x86"
    ),
    "a megabyte encoded 10,000 times": b"c_codecs\nencode\nq\x00X\0\0\x10\x00" + b"a" * 2**20
    + b"q\x01U\x06latin1q\x02](" + b"h\x00h\x01h\x02\x86R" * 10_000 + b"e",
    "a megabyte of arguments 10,000 times": b"c_codecs\nencode\nq\x00X\0\0\x10\x00" + b"a" * 2**20
    + b"q\x01](" + b"h\x00h\x01R" * 10_000 + b"e",
    "10,000 arrays of one megabyte": b"C\x00X\0\0\x10\x00" + b"a" * 2**20 + b"q\x00cnumpy\ndtype\nU\x02u1\x85Rq\x01]("
    + (ARRAY + b"(K\x01J\0\0\x10\x00\x85h\x01\x89h\x00tb") * 10_000 + b"e",
}  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory as Linux has them")
def test_no_bomb_takes_memory_or_time(tmp_path: Path) -> None:
    """In a process of its own with little memory: what allocated by a claim would fail there."""
    for i, content in enumerate(BOMBS.values()):
        (tmp_path / f"{i}").write_bytes(b"\x80\x04" + content + b".")
    code = textwrap.dedent(f"""
        import resource
        from pathlib import Path
        from crossbar_sim.data.cifar import read_pickle
        from crossbar_sim.errors import InputError
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
        for i in range({len(BOMBS)}):
            path = Path({str(tmp_path)!r}) / str(i)
            try:
                read_pickle(path, path.read_bytes())
            except InputError as error:
                print(error)
            else:
                print("read")
        """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said = dict(zip(BOMBS, done.stdout.splitlines(), strict=True))
    refusals = (
        "a string of 2 GiB",
        "bytes of 4 GiB",
        "a megabyte of arguments 10,000 times",
        "an array of 2**60",
    )
    for name, sentence in said.items():  # what is not refused costs nothing
        assert (sentence != "read") == (name in refusals), (name, sentence)
    assert "has 60 bytes" in said["an array of 2**60"]


def test_nothing_is_imported_for_a_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: Any, **named: Any) -> None:
        raise AssertionError("imported something")

    monkeypatch.setattr(builtins, "__import__", forbidden)
    content = b"\x80\x02}(" + text("data") + python2(PIXELS) + b"u."
    before = {*sys.modules}
    assert read_pickle(PATH, content)["data"].shape == (5, 12)
    refused(b"\x80\x02cantigravity\nnothing\n.", "names 'antigravity.nothing'")
    assert {*sys.modules} == before
