"""`solve` as a user meets it: what it prints, writes and draws, and what it says of bad files."""

import json

import numpy as np
import pytest

from crossbar_sim.crossbar.wires import Milo2021, Sinh, Wires, solve_nodes

G = np.exp(np.random.default_rng(0).uniform(np.log(1e-6), np.log(1e-4), (6, 20)))
V = np.random.default_rng(1).uniform(0, 0.3, (3, 6))


@pytest.fixture
def tables(tmp_path):
    """g.csv and v.csv, with a comment, an empty line and full digits."""
    g, v = tmp_path / "g.csv", tmp_path / "v.csv"
    g.write_text("# conductances in S\n\n" + "".join(",".join(map(repr, row)) + "\n" for row in G.tolist()))
    v.write_text("".join(",".join(map(repr, row)) + "\n" for row in V.tolist()))
    return g, v


def test_currents_losses_and_files(command, tables, tmp_path):
    report, currents, plot = tmp_path / "out.json", tmp_path / "i.csv", tmp_path / "drop.png"
    done = command("solve", *tables, "--wire-ohm", 5, "--json", report, "-o", currents, "--plot", plot)
    assert done.code == 0, done.err
    expected = V @ Wires(5, 5, method="exact").effective(G)
    assert np.loadtxt(currents, delimiter=",") == pytest.approx(expected, rel=1e-5)
    found = json.loads(report.read_text())
    assert np.array_equal(found["currents_A"], np.loadtxt(currents, delimiter=","))
    assert found["ideal_A"] == pytest.approx(V @ G, rel=1e-12)
    assert found["wires"]["r_word"] == found["wires"]["r_bit"] == 5
    assert max(found["residual_V"]) < 1e-6
    assert found["source"]["conductances"]["file"] == "g.csv"
    assert plot.stat().st_size > 10_000
    lost = 1 - np.asarray(found["currents_A"]) / (V @ G)
    worst = int(np.argmax(np.max(np.abs(expected - V @ G), axis=1) / np.max(V @ G, axis=1)))
    for text in (
        "6 word lines, 20 bit lines", "5 ohm per word segment", "driven from one end",
        f"of input {worst + 1}, which loses most", f"{100 * lost[worst, 0]:.4g} %", "(8 more columns",
    ):  # fmt: skip
        assert text in done.out
    before = plot.read_bytes()
    assert command("solve", *tables, "--wire-ohm", 5, "--plot", plot).code == 0
    assert plot.read_bytes() == before


def test_every_option_reaches_the_circuit(command, tables):
    options = ["--word-ohm", 2, "--bit-ohm", 3, "--source-ohm", 4, "--sense-ohm", 5, "--both-sides"]
    done = command("solve", *tables, *options, "--method", "exact", "--json", "-")
    found = np.asarray(done.report["currents_A"])
    wires = Wires(2, 3, 4, 5, "both", method="exact")
    assert np.array_equal(found, solve_nodes(G, V, wires).column_currents)
    assert "driven from both ends" in done.err
    for left_out in range(0, 8, 2):
        fewer = command("solve", *tables, *options[:left_out], *options[left_out + 2 :], "--json", "-")
        assert np.max(np.abs(np.asarray(fewer.report["currents_A"]) / found - 1)) > 1e-6
    coarse = command("solve", *tables, *options, "--tolerance", 0.1, "--json", "-").report
    assert 1e-12 < np.max(np.abs(np.asarray(coarse["currents_A"]) / found - 1)) < 0.1


@pytest.mark.parametrize(("given", "cell"), [("2.5", Sinh(2.5)), ("milo2021", Milo2021())])
def test_cells_that_are_not_ohmic(command, tmp_path, given, cell):
    g, v, drawn = np.full((4, 3), 8e-5), np.full(4, 0.2), tmp_path / "drop.svg"
    np.savetxt(tmp_path / "g.csv", g)
    np.savetxt(tmp_path / "v.csv", v)  # a column is one input
    done = command(
        "solve", tmp_path / "g.csv", tmp_path / "v.csv", "--wire-ohm", 10, "--nonlinear", given, "--json", "-",
        "--plot", drawn,
    )  # fmt: skip
    assert done.code == 0, done.err
    found = solve_nodes(g, v, Wires(10, 10), cell)
    assert done.report["currents_A"] == [pytest.approx(found.column_currents, rel=1e-12)]
    assert drawn.read_text("utf-8").startswith("<?xml")
    ohmic = solve_nodes(g, v, Wires(10, 10)).column_currents
    assert np.max(np.abs(found.column_currents / ohmic - 1)) > 1e-3  # the control


def test_what_changes_nothing_is_named(command, tables):
    done = command("solve", *tables, "--both-sides")
    assert done.code == 0
    assert "warning: no wire has a resistance" in done.out
    assert "warning: --both-sides changes nothing" in done.out
    assert (
        "warning: --nonlinear 1e-5 changes nothing"
        in command("solve", *tables, "--wire-ohm", 1, "--nonlinear", "1e-5").out
    )
    assert "warning" not in command("solve", *tables, "--wire-ohm", 1).out


def test_separators_and_byte_order_marks(command, tables, tmp_path):
    expected = command("solve", *tables, "--wire-ohm", 1, "--json", "-").report["currents_A"]
    for mark in (";", "\t", " ", ", "):
        text = "".join(mark.join(map(repr, row)) + "\r\n" for row in G.tolist())
        (tmp_path / "other.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
        done = command("solve", tmp_path / "other.csv", tables[1], "--wire-ohm", 1, "--json", "-")
        assert done.report["currents_A"] == expected


HOSTILE = {
    "empty": (b"", "holds no numbers"),
    "only a comment": (b"# nothing\n", "holds no numbers"),
    "words": (b"1,2\nrow,col\n", "line 2: 'row' is not a number"),
    "a gap": (b"1e-6,,2e-6\n", "line 1: '' is not a number"),
    "ragged": (b"1e-6,2e-6\n\n1e-6\n", "line 3: 1 number, and 2 numbers in line 1"),
    "not a number": (b"1e-6,nan\n", "'nan' is not a finite number"),
    "infinite": (b"1e-6,inf\n", "'inf' is not a finite number"),
    "too large for a double": (b"1e-6,1e999\n", "'1e999' is not a finite number"),
    "negative": (b"1e-6,-1e-6\n" * 6, "each must be in 0"),
    "not text": (b"\xff\xfe\x00\x01\n", "not a table in UTF-8 text"),
    "null bytes": (b"1e-6\x00,2\n", "is not a number"),
    "an escape sequence": (b"1\n\x1b[31m1\n", "is not a number"),
    "underscores": (b"1_0,2\n", "'1_0' is not a number"),
    "another size": (b"1e-6,2e-6\n1e-6,3e-6\n", "give one line of 2 numbers for each input"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_conductances_are_one_line(command, tables, tmp_path, name):
    content, text = HOSTILE[name]
    bad, kept = tmp_path / "bad.csv", tmp_path / "kept.csv"
    bad.write_bytes(content)
    kept.write_text("as it was")
    done = command("solve", bad, tables[1], "--wire-ohm", 1, "-o", kept)
    assert done.code == 2
    assert done.out == ""
    assert text in done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert done.err.rstrip("\n").isprintable()
    assert kept.read_text() == "as it was"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--wire-ohm", -1), "r_word=-1"),
        (("--wire-ohm", "nan"), "r_word=nan"),
        (("--wire-ohm", "ten"), "is not a valid float"),
        (("--sense-ohm", 1e12), "r_sense=1000000000000.0"),
        (("--tolerance", 0), "tolerance=0"),
        (("--method", "magic"), "is not one of"),
        (("--nonlinear", "x"), "--nonlinear 'x'"),
        (("--nonlinear", "1e4"), "a=10000"),
        (("--nonlinear", "900"), "lower the voltages or a"),
        (("--nonlinear", "milo2021"), "50 .. 225 uS"),
        (("--plot", "drop.gif"), "figures are written as .png"),
        (("-o", "no/such/directory/i.csv"), "cannot write"),
        (("--threads", 0), "threads=0"),
    ],
)
def test_impossible_options(command, tables, options, text):
    done = command("solve", *tables, *options)
    assert done.code == 2
    assert text in done.err
    assert done.err.count("\n") == 1


def test_inputs_are_never_written_over(command, tables):
    before = tables[0].read_bytes()
    done = command("solve", *tables, "--wire-ohm", 1, "-o", tables[0])
    assert done.code == 2
    assert "it is an input" in done.err
    assert tables[0].read_bytes() == before


def test_files_that_are_none(command, tables, tmp_path):
    for path, text in ((tmp_path / "missing.csv", "there is no such file"), (tmp_path, "not a regular file")):
        for pair in ((path, tables[1]), (tables[0], path)):
            done = command("solve", *pair, "--wire-ohm", 1)
            assert (done.code, done.err.count("\n")) == (2, 1)
            assert text in done.err


def test_what_cannot_be_solved_is_refused_with_its_reason(command, tables, tmp_path, monkeypatch):
    from crossbar_sim.crossbar.wires import nodes

    monkeypatch.setattr(nodes, "MOST_STEPS", 1)
    assert command("solve", *tables, "--wire-ohm", 100).code == 0  # by elimination
    monkeypatch.setattr(nodes, "fits_memory", lambda *_: False)
    kept = tmp_path / "i.csv"
    done = command("solve", *tables, "--wire-ohm", 100, "-o", kept)
    assert done.code == 2
    assert "input 1 is not solved: the fast method ran out of steps" in done.err
    assert "allow a larger tolerance" in done.err
    assert not kept.exists()
