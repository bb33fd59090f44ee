"""Independent solutions of a tile: dense nodal analysis, ngspice, and random tiles to try them on.

Nothing here is imported from the package: a circuit is a list of resistors between named nodes.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Circuit(NamedTuple):
    """Resistances in ohm; `inputs` is "one" or "both", as in Wires."""

    r_word: float = 0.0
    r_bit: float = 0.0
    r_source: float = 0.0
    r_sense: float = 0.0
    inputs: str = "one"


def wire_segments(rows: int, cols: int, circuit: Circuit) -> Iterator[tuple[str, str, float]]:
    """(node, node, ohm) of every wire: sources are s<i>, sensed terminals o<j>, nodes w<i>_<j> and b<i>_<j>."""
    near = circuit.r_word + circuit.r_source
    for i in range(rows):
        yield f"s{i}", f"w{i}_0", near
        for j in range(1, cols):
            yield f"w{i}_{j - 1}", f"w{i}_{j}", circuit.r_word
        if circuit.inputs == "both":
            yield f"w{i}_{cols - 1}", f"s{i}", near
    for j in range(cols):
        for i in range(1, rows):
            yield f"b{i - 1}_{j}", f"b{i}_{j}", circuit.r_bit
        yield f"b{rows - 1}_{j}", f"o{j}", circuit.r_bit + circuit.r_sense


class Nodal(NamedTuple):
    """Node voltages (rows, cols) and column currents (cols,)."""

    words: np.ndarray
    bits: np.ndarray
    currents: np.ndarray


def dense_nodal(g: np.ndarray, v: np.ndarray, circuit: Circuit) -> Nodal:
    """Kirchhoff's current law at every node as one dense matrix; nodes joined by 0 ohm are one node."""
    rows, cols = g.shape
    joined: dict[str, str] = {}

    def name(node: str) -> str:
        while joined.setdefault(node, node) != node:
            node = joined[node]
        return node

    resistors: list[tuple[str, str, float]] = []
    for a, b, ohm in wire_segments(rows, cols, circuit):
        if ohm == 0:
            joined[name(a)] = name(b)
        else:
            resistors.append((a, b, 1 / ohm))
    resistors += [(f"w{i}_{j}", f"b{i}_{j}", g[i, j]) for i in range(rows) for j in range(cols)]
    known = {name(f"s{i}"): float(v[i]) for i in range(rows)} | {name(f"o{j}"): 0.0 for j in range(cols)}
    cells = [(i, j) for i in range(rows) for j in range(cols)]
    unknown: dict[str, int] = {}
    for i, j in cells:
        for node in (name(f"w{i}_{j}"), name(f"b{i}_{j}")):
            if node not in known:
                unknown.setdefault(node, len(unknown))
    matrix, right = np.zeros((len(unknown), len(unknown))), np.zeros(len(unknown))
    for a, b, siemens in resistors:
        for here, there in ((name(a), name(b)), (name(b), name(a))):
            if here in unknown:
                matrix[unknown[here], unknown[here]] += siemens
                if there in unknown:
                    matrix[unknown[here], unknown[there]] -= siemens
                else:
                    right[unknown[here]] += siemens * known[there]
    solved = np.linalg.solve(matrix, right) if unknown else right

    def volt(node: str) -> float:
        node = name(node)
        return known[node] if node in known else float(solved[unknown[node]])

    words = np.array([volt(f"w{i}_{j}") for i, j in cells]).reshape(rows, cols)
    bits = np.array([volt(f"b{i}_{j}") for i, j in cells]).reshape(rows, cols)
    return Nodal(words, bits, np.sum(g * (words - bits), axis=0))


def random_tile(
    rng: np.random.Generator, rows: int, cols: int, open_: float = 0.1, short: float = 0.0
) -> Any:
    """Log-uniform cells, 1 uS to 10 mS, some open and some near-shorts of 1 ohm."""
    g = np.exp(rng.uniform(np.log(1e-6), np.log(1e-2), (rows, cols)))
    kind = rng.random((rows, cols))
    g[kind < open_] = 0.0
    g[kind > 1 - short] = 1.0
    return g


def ngspice() -> str | None:
    """Where the program is, if it is installed."""
    return shutil.which("ngspice")


def netlist(g: np.ndarray, v: np.ndarray, circuit: Circuit, sinh: float | None = None) -> str:
    """The tile as ngspice reads it; an open cell is left out, a segment of 0 ohm is a source of 0 V."""
    rows, cols = g.shape
    lines = ["* a crossbar tile"]
    lines += [f"Vs{i} s{i} 0 DC {float(v[i])!r}" for i in range(rows)]
    lines += [f"Vo{j} o{j} 0 DC 0" for j in range(cols)]
    for n, (a, b, ohm) in enumerate(wire_segments(rows, cols, circuit)):
        lines.append(f"R{n} {a} {b} {ohm!r}" if ohm else f"Vz{n} {a} {b} DC 0")
    for i in range(rows):
        for j in range(cols):
            siemens, ends = float(g[i, j]), f"w{i}_{j} b{i}_{j}"
            if siemens and sinh is None:
                lines.append(f"Rc{i}_{j} {ends} {1 / siemens!r}")
            elif siemens:
                law = f"{siemens!r}*sinh({sinh!r}*v(w{i}_{j},b{i}_{j}))/{sinh!r}"
                lines.append(f"Bc{i}_{j} {ends} I={law}")
    # numdgt: all digits of a double; gmin and tolerances below what is compared.
    lines += [
        ".options gmin=1e-20 reltol=1e-9 abstol=1e-20 vntol=1e-15 itl1=1000",
        ".control",
        "set numdgt=15",
        "op",
        *(f"print i(Vo{j})" for j in range(cols)),
        ".endc",
        ".end",
    ]
    return "\n".join(lines) + "\n"


def spice_currents(
    g: np.ndarray, v: np.ndarray, circuit: Circuit, folder: Path, sinh: float | None = None
) -> np.ndarray:
    """Column currents that ngspice finds, (cols,) in A."""
    program = ngspice()
    assert program is not None
    file = folder / "tile.cir"
    file.write_text(netlist(g, v, circuit, sinh))
    run = subprocess.run([program, "-b", str(file)], capture_output=True, text=True, timeout=60)
    found = {}
    for line in run.stdout.splitlines():
        left, _, right = line.partition("=")
        if left.strip().lower().startswith("i(vo"):
            found[int(left.strip()[4:-1])] = float(right)
    assert sorted(found) == list(range(g.shape[1])), run.stdout + run.stderr
    return np.array([found[j] for j in range(g.shape[1])])
