"""Tables as instruments, spreadsheets, pandas, numpy and MATLAB write them: read, or refused in one line that helps."""

import os

import numpy as np
import pytest

from crossbar_sim.crossbar.device_fit import read_measurements
from crossbar_sim.errors import InputError
from crossbar_sim.tables import read_table

NUMBERS = np.array([[1.5e-5, 2e-6, 3.25e-5], [4e-6, 5.5e-5, 0.0]])
ROWS = [(1e-6 * (k % 5 + 1), 1.1e-6 * (k % 5 + 1), float(k)) for k in range(12)]


def comma(value: float) -> str:
    return repr(value).replace(".", ",")


def lines(mark: str, write=repr, end: str = "\n", rows=NUMBERS) -> str:
    return "".join(mark.join(write(float(x)) for x in row) + end for row in rows)


READ = {
    "commas": lines(","),
    "commas and spaces": lines(", "),
    "semicolons": lines(";"),
    "tabs": lines("\t"),
    "spaces": lines("   "),
    "a comma at the end": lines(",", end=",\n"),
    "Windows": "\ufeff" + lines(";", end="\r\n"),
    "old Mac": lines(",", end="\r"),
    "no end of the last line": lines(",").rstrip(),
    "decimal commas": lines(";", comma),
    "decimal commas and tabs": lines("\t", comma),
    "decimal commas and spaces": lines(" ", comma),
    "a header": "c0,c1,c2\n" + lines(","),
    "a quoted header": '"G (S)";"b";"c d"\n' + lines(";", comma),
    "savetxt": "# g_0 g_1 g_2\n" + lines(" "),
    "savetxt with commas": "# a,b,c\n" + lines(","),
    "MATLAB's remarks": "% written by a script\n\n" + lines(" ") + "\n% end\n",
    "quoted numbers": lines(",", lambda x: f'"{x!r}"'),
    "signs and capitals": lines(",", lambda x: f"+{x:.6E}"),
}


@pytest.mark.parametrize("name", READ)
def test_the_same_numbers_however_they_are_written(name, tmp_path):
    path = tmp_path / "g.csv"
    path.write_bytes(READ[name].encode())
    assert np.array_equal(read_table(str(path), "conductances"), NUMBERS)
    assert np.array_equal(read_table(str(path), "conductances", 1e-6), NUMBERS * 1e-6)


REFUSED = {
    "both decimal marks": ("1,5;2.5\n", "decimal comma (1,5) and a decimal point (2.5)"),
    "thousands": ("1.234,5;2,0\n", "'1.234,5' is not a number"),
    "one column of decimal commas": ("2,5e-5\n3,1e-5\n", "one number with a decimal comma, or two"),
    "two lines of words": ("a,b\nS,S\n1,2\n", "line 2: 'S' is not a number"),
    "a header of another length": ("a,b,c\n1,2\n", "2 numbers below a first line of 3 names"),
    "an index of pandas": (",a,b\n0,1e-6,2e-6\n", "line 1: '' is not a number"),
    "MATLAB 5": (
        b"MATLAB 5.0 MAT-file, Platform: GLNXA64",
        "a MATLAB file, not a table in UTF-8 text: write it there",
    ),
    "MATLAB 7.3": (b"MATLAB 7.3 MAT-file" + bytes(493) + b"\x89HDF\r\n\x1a\n", "a MATLAB file"),
    "a spreadsheet": (b"PK\x03\x04rest", "save the sheet as CSV"),
    "npy": (b"\x93NUMPY\x01\x00", "write it with numpy.savetxt"),
    "UTF-16": ("1,2\n".encode("utf-16"), "save it as CSV in UTF-8"),
    "Latin-1": ("µS\n1\n".encode("latin-1"), "not UTF-8 text"),
    "a long line": ("1," * 700_000, "more than 1048576 characters"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_one_line(name, tmp_path):
    content, says = REFUSED[name]
    path = tmp_path / "g.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for read in (lambda: read_table(str(path), "conductances"), lambda: read_measurements(path)):
        with pytest.raises(InputError) as caught:
            read()
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
    with pytest.raises(InputError) as caught:
        read_table(str(path), "conductances")
    assert says in str(caught.value)


def body(mark: str = ",", write=repr, scale: float = 1.0) -> str:
    return lines(mark, write, rows=[(t * scale, m * scale, s) for t, m, s in ROWS])


MEASURED = {
    "as documented": ("target_S,measured_S,time_s\n" + body(), None),
    "savetxt": ("# target_S,measured_S,time_s\n" + body(), None),
    "savetxt with spaces": ("# target_S measured_S time_s\n" + body(" "), None),
    "MATLAB": ("% target_S,measured_S,time_s\n" + body(), None),
    "a remark above the header": ("# Lab 7, 300 K\ntarget_S,measured_S,time_s\n" + body(), None),
    "several remarks": ("# Lab 7\n# target_S,measured_S,time_s\n" + body(), None),
    "semicolons and decimal commas": ("\ufefftarget_S;measured_S;time_s\r\n" + body(";", comma), None),
    "tabs": ("target_S\tmeasured_S\ttime_s\n" + body("\t"), None),
    "microsiemens by name": ("target_uS,measured_uS,time_s\n" + body(scale=1e6), None),
    "the micro sign": ("target (µS),measured [μS],time (s)\n" + body(scale=1e6), None),
    "capitals": ("Target_mS;Measured_mS;Time_s\n" + body(";", scale=1e3), None),
    "microsiemens by option": ("target,measured,time_s\n" + body(scale=1e6), "uS"),
    "nanosiemens by option": ("# target measured time_s\n" + body(" ", scale=1e9), "nS"),
    "an option that agrees": ("target_uS,measured_uS,time_s\n" + body(scale=1e6), "µS"),
    "other columns": (
        "T_K,target_S,measured_S,time_s\n" + "".join(f"300,{x}\n" for x in body().splitlines()),
        None,
    ),
}


@pytest.mark.parametrize("name", MEASURED)
def test_measurements_however_they_are_written(name, tmp_path):
    content, unit = MEASURED[name]
    path = tmp_path / "m.csv"
    path.write_bytes(content.encode())
    data = read_measurements(path, unit)
    target, measured, time = np.array(ROWS).T
    np.testing.assert_allclose(data.target, target, rtol=1e-12)
    np.testing.assert_allclose(data.measured, measured, rtol=1e-12)
    assert np.array_equal(data.time, time)


@pytest.mark.parametrize(
    ("header", "unit", "says"),
    [
        ("target,measured,time_s", None, "'target' has no unit: name it target_S, or give --unit uS"),
        ("target_S,measured_S,time_s", "uS", "is in S and --unit says uS"),
        ("target_S,measured_S,time_s", "ohm", "--unit 'ohm': expected one of S, mS, uS, nS"),
        ("target_ohm,measured_ohm,time_s", None, "'target_ohm' must end in its unit: S, mS, uS, nS"),
        ("target_S,measured_S,time", None, "'time' must end in its unit, such as time_s"),
        ("target_S,measured_S,time_days", None, "'time_days' must end in its unit"),
        ("target_S,target_uS,measured_S", None, "lacks the column time_s"),
        ("1,2,3", None, "lacks the columns target_S, measured_S, time_s"),
        ("# about,the,lab", None, "lacks the columns"),
    ],
)
def test_columns_and_units_that_are_not_clear_are_refused(header, unit, says, tmp_path):
    path = tmp_path / "m.csv"
    path.write_text(f"{header}\n{body()}")
    with pytest.raises(InputError) as caught:
        read_measurements(path, unit)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_time_in_other_units(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("target_S,measured_S,time_min\n" + body())
    assert np.array_equal(read_measurements(path).time, 60.0 * np.array(ROWS)[:, 2])


def test_pipes_and_sparse_files_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 300 * 2**30)
    for name, says in (("pipe", "regular file"), ("sparse", "MiB")):
        for read in (lambda p: read_table(str(p), "conductances"), read_measurements):
            with pytest.raises(InputError, match=says):
                read(tmp_path / name)
