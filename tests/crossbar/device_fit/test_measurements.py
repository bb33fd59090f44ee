"""Tables of measurements, good and hostile: one line, with the file, the row and what is allowed."""

import numpy as np
import pytest

from crossbar_sim import InputError
from crossbar_sim.crossbar.device_fit import Measurements, measurements, read_measurements

HEAD = "target_S,measured_S,time_s\n"
GOOD = [f"{1e-6 * i},{1.1e-6 * i},{i % 3}" for i in range(1, 13)]


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_table_is_read(tmp_path):
    text = (
        "\ufeff# of wafer 7\ncell, time_s ,operator,measured_S,target_S\n\na1,0,me,1.5e-6,1e-6\n"
        + "".join(f'a{i % 2},60,"you, too",{i}e-6,2e-6\n' for i in range(9))
    )
    data = read_measurements(write(tmp_path / "m.csv", text))
    assert data.target.tolist() == [1e-6] + [2e-6] * 9
    assert data.measured[0] == 1.5e-6
    assert data.time.tolist() == [0] + [60] * 9
    assert data.cell.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert data.floored.tolist() == [False, True] + [False] * 8
    assert data.g_max == 2e-6


def test_a_few_readings_below_0_are_an_offset_and_counted(tmp_path):
    data = read_measurements(
        write(tmp_path / "m.csv", HEAD + "\n".join([*GOOD, "1e-7,-1e-7,0", "1e-6,-9e-6,0"]))
    )
    assert (data.negative, data.lowest) == (2, -9e-6)
    assert data.measured[-2:].tolist() == [0, 0]
    assert data.floored.tolist() == [False] * 12 + [True, True]
    assert read_measurements(write(tmp_path / "n.csv", HEAD + "\n".join(GOOD))).negative == 0


BAD = {
    "empty": ("", "is empty"),
    "no rows": (HEAD, "0 rows"),
    "one row": (HEAD + GOOD[0], "1 rows of measurements: a fit takes 8 .. 500000 (measure more cells)"),
    "no header": ("\n".join(GOOD), "lacks the columns target_S, measured_S, time_s"),
    "missing column": ("target_S,time_s\n1,1\n", "lacks the column measured_S"),
    "column twice": ("target_S,measured_S,time_s,time_s\n", "the column time_s is there twice"),
    "text": (HEAD + "\n".join([*GOOD, "1e-6,high,0"]), "line 14: measured_S='high' is no number"),
    "empty value": (HEAD + "\n".join([*GOOD, "1e-6,,0"]), "line 14: measured_S='' is no number"),
    "nan": (HEAD + "\n".join([*GOOD, "1e-6,nan,0"]), "row 13: measured_S=nan must be in S"),
    "infinite": (HEAD + "\n".join([*GOOD, "1e-6,inf,0"]), "row 13: measured_S=inf"),
    "wrong sign": (
        HEAD + "\n".join([*GOOD, "1e-5,-1e-5,0", "1e-5,-9e-6,0"]),
        "2 of 14 readings lie more than 1.2e-06 S (10% of the largest target) below 0 S, the first in row 13",
    ),
    "negative and not in S": (HEAD + "\n".join([*GOOD, "1e-6,-2,0"]), "row 13: measured_S=-2 must be in S"),
    "negative time": (HEAD + "\n".join([*GOOD, "1e-6,1e-6,-1"]), "row 13: time_s=-1"),
    "microsiemens": (HEAD + "\n".join([*GOOD, "40,39,0"]), "40 uS is 40e-6"),
    "short row": (HEAD + "\n".join([*GOOD, "1e-6,1e-6"]), "line 14: 2 values under 3 columns"),
    "long row": (HEAD + "\n".join([*GOOD, "1,1,1,1"]), "line 14: 4 values under 3 columns"),
    "huge number": (HEAD + "\n".join([*GOOD, "1e-6," + "9" * 400 + ",0"]), "measured_S=inf"),
    "no text": (b"\x89HDF\r\n\x1a\n\xff\xfe", "not a table in UTF-8 text"),
    "null bytes": (HEAD.encode() + b"1e-6,\x00,0\n" * 9, "is no"),
    "open quote": (HEAD + '"1e-6,1,1\n', "not CSV that can be read"),
    "one huge field": (HEAD + '"' + "9" * 200_000 + '",1,1\n', "not CSV that can be read"),
    "all targets 0": (HEAD + "0,1e-6,0\n" * 9, "every target_S is 0"),
    "no error": (HEAD + "1e-6,1e-6,0\n" * 9, "there is no error to fit"),
}


@pytest.mark.parametrize("name", BAD)
def test_hostile_tables_are_refused_in_one_line(tmp_path, name):
    text, expected = BAD[name]
    path = write(tmp_path / "m.csv", text)
    with pytest.raises(InputError) as caught:
        read_measurements(path)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_what_is_no_table_at_all(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_measurements(tmp_path / "none.csv")
    with pytest.raises(InputError, match="not a regular file"):
        read_measurements(tmp_path)
    with pytest.raises(InputError):
        read_measurements("a\0b")


def test_tables_that_are_too_large_are_refused_before_they_fill_the_memory(tmp_path, monkeypatch):
    path = write(tmp_path / "m.csv", HEAD + "\n".join(GOOD))
    monkeypatch.setattr(measurements, "MOST_ROWS", 10)
    with pytest.raises(InputError, match="more than 10 rows: draw a random part"):
        read_measurements(path)
    monkeypatch.setattr(measurements, "MOST_BYTES", 100)
    with pytest.raises(InputError, match="MiB"):
        read_measurements(path)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((np.ones(9), np.ones(8), np.ones(9)), "expected two vectors of one length"),
        ((np.ones((3, 3)), np.ones((3, 3)), np.ones((3, 3))), "vectors"),
        ((np.ones(9) * 1e-6, np.ones(9) * 2e-6, np.ones(9), np.ones(3)), "cell has shape (3,)"),
    ],
)
def test_arrays_that_do_not_go_together(arguments, expected):
    with pytest.raises(InputError) as caught:
        Measurements(*arguments)
    assert expected in str(caught.value)
