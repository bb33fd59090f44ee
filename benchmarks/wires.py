"""IR drop: effective conductances, one input, and a whole network, beside limits of the machine, on one core.

python benchmarks/wires.py [results.json]

Segments of 1.5 ohm, cells log-uniform from 10 k to 1 M ohm. One interleaved run per table, in processor time; say
what the load was (`uptime`). The limits: the bytes that the sweeps have to move, copied; and, for
elimination, its arithmetic as products of matrices. `splu` is the plain way: a sparse factorisation of
the whole circuit.
"""

import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu
from timing import interleaved, report, save

from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.wires import Sinh, Wires, solve_nodes
from crossbar_sim.crossbar.wires.kernels import LANES
from crossbar_sim.crossbar.wires.wires import aligned

OHM = 1.5
MLP = ((784, 192), (192, 32), (32, 10))
TILE = 128
SWEEPS = {128: 4, 256: 6}
"""That the fast method takes to 1e-6 on these tiles; each reads and writes the node voltages twice."""


def cells(rows, cols, seed=0):
    """Log-uniform conductances, 1 to 100 uS."""
    return np.exp(np.random.default_rng(seed).uniform(np.log(1e-6), np.log(1e-4), (rows, cols)))


def moved(n):
    """A function that copies what the sweeps over all inputs of an n x n tile read and write."""
    x, y = aligned(n * n * LANES), aligned(n * n * LANES)
    x[:], y[:] = 1.0, 0.0

    def copies():
        for _ in range(n // LANES * SWEEPS[n]):
            np.copyto(y, x)
            np.copyto(x, y)

    return copies


def products(n):
    """A function that does the arithmetic of elimination as matrix products: about 3.3 n^4 multiplications."""
    a, b = np.random.default_rng(0).random((2, n, n))
    out = np.empty((n, n))

    def multiply():
        for _ in range(round(3.3 * n)):
            np.matmul(a, b, out=out)

    return multiply


def circuit(g):
    """The nodal matrix of the tile: word-line nodes, then bit-line nodes, row by row."""
    n, m = g.shape
    words = sparse.diags([-np.ones(m - 1), np.r_[np.full(m - 1, 2.0), 1.0], -np.ones(m - 1)], [-1, 0, 1])
    bits = sparse.diags([-np.ones(n - 1), np.r_[1.0, np.full(n - 1, 2.0)], -np.ones(n - 1)], [-1, 0, 1])
    d = sparse.diags(g.ravel())
    top = sparse.kron(sparse.eye(n), words) / OHM + d
    bottom = sparse.kron(bits, sparse.eye(m)) / OHM + d
    return sparse.bmat([[top, -d], [-d, bottom]], format="csc")


def by_splu(g):
    """Effective conductances by one sparse factorisation and a solution for each input."""
    n, m = g.shape
    factors = splu(circuit(g))
    right = np.zeros((2 * n * m, n))
    right[np.arange(n) * m, np.arange(n)] = 1 / OHM
    return factors.solve(right)[-m:].T / OHM


def effective():
    """All inputs of one tile."""
    tables = []
    for n, rounds in ((128, 9), (256, 3)):
        g = cells(n, n)
        fast, tight, exact = Wires(OHM, OHM), Wires(OHM, OHM, tolerance=1e-9), Wires(OHM, OHM, method="exact")
        truth = exact.effective(g)
        for wires in (fast, tight):
            found = wires.effective(g)
            worst = np.max(np.abs(found / truth - 1))
            print(f"{n}x{n} to {wires.tolerance:g}: largest relative error of any cell {worst:.1e}")
        candidates = {
            "fast, to 1e-6": lambda g=g, w=fast: w.effective(g),
            "fast, to 1e-9": lambda g=g, w=tight: w.effective(g),
            "exact": lambda g=g, w=exact: w.effective(g),
            "limit of fast: its bytes, copied": moved(n),
            "limit of exact: its products": products(n),
        }
        if n == 128:
            assert np.allclose(by_splu(g), truth, rtol=1e-9)
            candidates["splu of the circuit"] = lambda g=g: by_splu(g)
        seconds = interleaved(candidates, rounds, time.process_time)
        tables.append(report(f"effective, {n}x{n}", seconds, n * n * n, "cell inputs/s", "fast, to 1e-6"))
    return tables


def one_input():
    """Every voltage and current for one input."""
    tables = []
    for n in (128, 256):
        g, v = cells(n, n), np.random.default_rng(1).uniform(0, 1, n)
        fast, exact = Wires(OHM, OHM), Wires(OHM, OHM, method="exact")
        truth = solve_nodes(g, v, exact).column_currents
        error = np.max(np.abs(solve_nodes(g, v, fast).column_currents / truth - 1))
        print(f"{n}x{n}, one input to 1e-6: largest relative error of any column {error:.1e}")
        x, y = np.ones((2, n, n))
        candidates = {
            "fast, to 1e-6": lambda g=g, v=v, w=fast: solve_nodes(g, v, w),
            "fast, g sinh(2 v)/2": lambda g=g, v=v, w=fast: solve_nodes(g, v, w, Sinh(2.0)),
            "limit: 5 steps of 12 arrays, copied": lambda x=x, y=y: [np.copyto(y, x) for _ in range(30)],
        }
        seconds = interleaved(candidates, 15, time.process_time)
        tables.append(report(f"one input, {n}x{n}", seconds, n * n, "cells/s", "fast, to 1e-6"))
    return tables


def network():
    """Every tile of a differential 784-192-32-10 network, one chip."""
    planes = []
    for layer, (rows, cols) in enumerate(MLP):
        for sign in range(2):
            g = cells(rows, cols, seed=2 * layer + sign)
            planes += [
                g[i : i + TILE, j : j + TILE] for i in range(0, rows, TILE) for j in range(0, cols, TILE)
            ]
    cells_in_all = sum(g.size for g in planes)
    candidates = {
        "fast, to 1e-6": lambda: Wires(OHM, OHM).effective_planes(planes),
        "exact": lambda: Wires(OHM, OHM, method="exact").effective_planes(planes),
    }
    seconds = interleaved(candidates, 3, time.process_time)
    return [report(f"784-192-32-10, {len(planes)} tiles", seconds, cells_in_all, "cells/s", "fast, to 1e-6")]


if __name__ == "__main__":
    threads.set_threads(1)
    load = os.getloadavg()
    print(f"load average at the start: {load[0]:.1f} on {os.cpu_count()} cores")
    save(effective() + one_input() + network())
