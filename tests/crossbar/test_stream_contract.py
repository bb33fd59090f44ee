"""A number is named by (seed, names, chip, plane, cell, event), and by nothing else."""

import itertools

import numpy as np
import pytest
from helpers import reference
from helpers.law_examples import KINDS, LAWS
from hypothesis import example, given
from hypothesis import strategies as st

from crossbar_sim import (
    ALL_MAPPINGS,
    Differential,
    Hardware,
    InputError,
    Key,
    LogNormalDrift,
    Offset,
    PolynomialNoise,
    ProgrammingNoise,
    StuckCells,
)
from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.rng import STREAM_VERSION, check_chip


def bits(x: np.ndarray) -> np.ndarray:
    """Compare these, not the floats: -0 is not +0 here."""
    return np.ascontiguousarray(x).view(np.uint32)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.array_equal(bits(a), bits(b))


@pytest.fixture(autouse=True)
def threads_as_before():
    before = threads.threads()
    yield
    threads.set_threads(before)


@pytest.fixture
def cut(monkeypatch):
    """cut(size): work in chunks of `size` cells."""

    def set_size(size: int) -> None:
        monkeypatch.setattr(
            threads,
            "chunks",
            lambda n: [slice(a, min(a + size, n)) for a in range(0, n, size)],
        )

    return set_size


EVERYTHING = [
    Hardware(
        mapping(1e-6, 1e-4, levels=33, scale_per=scale_per, copies=2),
        drift=LogNormalDrift(0.4),
        programming=ProgrammingNoise(0.02),
        stuck=StuckCells(0.02, 0.03),
        tile=(7, 5),
        drift_per=drift_per,
    )
    for mapping, scale_per, drift_per in itertools.product(
        ALL_MAPPINGS, ("matrix", "column"), ("cell", "weight")
    )
] + [Hardware(Differential(), LogNormalDrift(0.6), drift_per="weight")]


def matrix(rows: int, cols: int) -> np.ndarray:
    """Weights in (-1, 1) that repeat nowhere."""
    return np.sin(np.arange(rows * cols, dtype=np.float32) * 0.7).reshape(rows, cols)


# --- what a number does not depend on -------------------------------------------------------------


@pytest.mark.parametrize("law", LAWS, ids=KINDS)
def test_law_is_independent_of_threads_and_chunks(law, cut):
    g = np.linspace(0.5, 1.5, 3 * 1001, dtype=np.float32).reshape(3, 1001)
    expected = law.apply(g, Key(1), 2)
    for count, size in itertools.product((1, 2, 3), (256, 768, 1 << 16)):
        threads.set_threads(count)
        cut(size)
        assert same(law.apply(g, Key(1), 2), expected), (count, size)


@pytest.mark.parametrize("hardware", EVERYTHING, ids=lambda h: f"{h.mapping.kind}-{h.drift_per}")
def test_program_is_independent_of_threads_and_chunks(hardware, cut):
    w = matrix(61, 23)
    columns = np.ascontiguousarray(w.T)
    whole = hardware.program(w, Key(1), 2)
    for count, size in itertools.product((1, 2, 3), (256, 512, 1 << 16)):
        threads.set_threads(count)
        cut(size)
        array = hardware.program(w, Key(1), 2)
        for stage in ("target", "programmed", "drifted"):
            assert same(getattr(array, stage), getattr(whole, stage)), (stage, count, size)
        assert np.array_equal(array.faults, whole.faults)
        assert same(hardware.effective_weight(columns, Key(1), 2).T, whole.weight), (count, size)


def test_a_chunk_is_a_multiple_of_a_group():
    from crossbar_sim.crossbar.kernels import GROUP

    assert threads.CHUNK % GROUP == 0
    assert GROUP == 256
    assert threads.chunks(10, 4) == [slice(0, 4), slice(4, 8), slice(8, 10)]
    assert threads.chunks(0) == []


@given(st.integers(0, 40), st.integers(1, 1500))
@example(0, 1)
def test_any_run_of_cells_is_a_piece_of_the_whole(group, n):
    stream = Stream.of(Key(3), chip=1, plane=1)
    whole_words, whole = stream.words(41 * 256 + 1500), stream.normals(41 * 256 + 1500)
    start = 256 * group
    assert np.array_equal(stream.words(n, start), whole_words[start : start + n])
    assert same(stream.normals(n, start), whole[start : start + n])


def test_outputs_added_change_no_other_cell():
    """Cell (r, c) is number c rows + r: further bit lines come last, further word lines in between."""
    g = np.full((50, 40), 1e-5, np.float32)
    law = LogNormalDrift(0.6)
    drifted = law.apply(g, Key(0), 0)
    wider = law.apply(np.full((50, 70), 1e-5, np.float32), Key(0), 0)
    taller = law.apply(np.full((51, 40), 1e-5, np.float32), Key(0), 0)
    assert same(wider[:, :40], drifted)
    assert same(taller[:50, :1], drifted[:, :1]), "the first bit line starts at cell 0 anyhow"
    assert not np.any(taller[:50, 1:] == drifted[:, 1:])


def test_adding_a_layer_changes_no_other():
    """There is no state: the order and the number of calls do not matter."""
    hardware = EVERYTHING[0]
    w, key = matrix(20, 10), Key(7)
    alone = hardware.program(w, key.fold("fc2"), 3).weight
    hardware.program(w, key.fold("fc1"), 3)
    hardware.program(w, key.fold("extra"), 3)
    assert same(hardware.program(w, key.fold("fc2"), 3).weight, alone)


@pytest.mark.parametrize("law", LAWS, ids=KINDS)
def test_planes_are_the_planes_of_the_array(law):
    """`apply` on an array's programmed planes is what the array's own drift did."""
    hardware = Hardware(Differential(1e-6, 1e-4, copies=2), law)
    array = hardware.program(matrix(30, 20), Key(2).fold("fc"), 4)
    assert same(law.apply(array.programmed, Key(2).fold("fc"), 4), array.drifted)
    offset = Hardware(Offset(1e-6, 1e-4), law).program(matrix(30, 20), Key(2), 4)
    assert same(law.apply(offset.programmed, Key(2), 4), offset.drifted)


# --- what it does depend on -----------------------------------------------------------------------


def test_every_part_of_the_name_counts():
    names = [
        (seed, name, chip, plane, event)
        for seed in (0, 1)
        for name in ("a", "b")
        for chip in (0, 1)
        for plane in (0, 1)
        for event in (0, 1)
    ]
    runs = [
        Stream.of(Key(seed).fold(name), chip, plane, event).words(64)
        for seed, name, chip, plane, event in names
    ]
    assert len({run.tobytes() for run in runs}) == len(names)
    together = np.stack(runs).astype(np.float64)
    correlation = np.corrcoef(together) - np.eye(len(names))
    assert np.max(np.abs(correlation)) < 5 / 8  # 5 sigma at 64 cells


def test_cells_of_a_plane_are_all_different():
    words = Stream.of(Key(0), chip=0).words(1 << 16)
    # 2^16 draws of 2^32: half a coincidence expected; a repeated block would give hundreds
    assert len(np.unique(words)) >= words.size - 5


def test_effects_have_streams_of_their_own():
    hardware = EVERYTHING[0]
    key = Key(5).fold("fc")
    w = np.zeros((40, 30), np.float32)
    array = hardware.program(w, key, 1)
    z = Stream.of(key.fold("programming"), 1, 0).normals(1200).reshape(30, 40).T
    healthy = array.faults[0] == 0
    expected = np.maximum(array.target[0] + np.float32(2e-6) * z, 0)
    assert np.allclose(array.programmed[0][healthy], expected[healthy], rtol=1e-6)
    words = Stream.of(key.fold("stuck"), 1, 0).words(1200).reshape(30, 40).T
    assert np.array_equal(array.faults[0] == 1, words < int(0.02 * 2**32))
    assert np.array_equal(array.faults[0] == 2, words >= 2**32 - int(0.03 * 2**32))


# --- Key ------------------------------------------------------------------------------------------


def test_key_words_are_the_twins():
    for seed, names in [(0, ()), (1, ("a",)), (2**64 - 1, ("Größe", "", "x" * 300))]:
        assert Key(seed).fold(*names).words() == reference.key_words(seed, names)
    assert STREAM_VERSION == 1


@given(st.integers(0, 2**64 - 1), st.lists(st.text(max_size=20), max_size=4))
def test_any_key_is_the_twin(seed, names):
    names = tuple(name.encode("utf-8", "replace").decode() for name in names)
    assert Key(seed, names).words() == reference.key_words(seed, names)


def test_folding_is_a_path():
    key = Key(3)
    assert key.fold("a", "b") == key.fold("a").fold("b")
    assert key.fold() == key
    assert key.fold("a").path == ("a",)
    assert key.path == (), "a key is never changed"
    assert hash(Key(3, ("a",))) == hash(key.fold("a"))


def test_names_keep_their_boundaries():
    paths = [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("", "abc"), ()]
    assert len({Key(0, path).words() for path in paths}) == len(paths)


def test_integer_is_for_other_generators():
    assert 0 <= Key(0).integer() < 2**63
    assert Key(0).integer() != Key(1).integer()
    low = int.from_bytes(Key(0).digest()[8:16], "little")
    assert Key(0).integer() == low >> 1
    assert Key(0).integer() not in Key(0).words()


@pytest.mark.parametrize("seed", [-1, 2**64, 0.5, 1.0, "1", None, True, float("nan")])
def test_impossible_seeds_are_refused(seed):
    with pytest.raises(InputError, match="seed"):
        Key(seed)


@pytest.mark.parametrize("chip", [-1, 2**32, 0.5, "1", None, True])
def test_impossible_chips_are_refused(chip):
    with pytest.raises(InputError, match="chip"):
        Stream.of(Key(0), chip)
    with pytest.raises(InputError, match="chip"):
        LogNormalDrift(0.1).apply(np.ones(3, np.float32), Key(0), chip)


@pytest.mark.parametrize("name", [1, None, b"fc1", ("a", "b")])
def test_names_are_strings(name):
    with pytest.raises(InputError, match="name"):
        Key(0).fold(name)


def test_integers_of_numpy_are_integers():
    assert Key(np.int64(7)) == Key(7)
    assert type(Key(np.uint8(7)).seed) is int
    assert type(check_chip(np.int32(3))) is int


# --- frozen: any change of these is a new STREAM_VERSION ------------------------------------------


def test_golden_words():
    assert Key(0).words() == GOLDEN_KEY
    words = Stream.of(Key(0).fold("fc1", "drift"), chip=7, plane=1).words(257)
    assert {i: int(words[i]) for i in GOLDEN_WORDS} == GOLDEN_WORDS


def test_golden_normals():
    z = Stream.of(Key(0).fold("fc1", "drift"), chip=7, plane=1).normals(257)
    assert {i: float(z[i]).hex() for i in GOLDEN_NORMALS} == GOLDEN_NORMALS


@pytest.mark.parametrize("law", LAWS, ids=KINDS)
def test_golden_drift(law):
    """Exact but for the gamma law, whose table is SciPy's: there to 1e-6."""
    g = np.ones(68, np.float32)
    drifted = law.apply(g, Key(0).fold("fc1"), 7)[[0, 1, 67]]
    expected = np.float32([float.fromhex(text) for text in GOLDEN_DRIFT[law.kind]])
    if law.kind == "gamma":
        assert np.allclose(drifted, expected, rtol=1e-6)
    else:
        assert same(drifted, expected), [float(x).hex() for x in drifted]


def test_golden_array():
    hardware = Hardware(
        Offset(1e-6, 1e-4, levels=16),
        LogNormalDrift(0.5),
        PolynomialNoise((1e-6, 2e-6), 1e-4),
        StuckCells(0.2, 0.2),
    )
    array = hardware.program(matrix(2, 2), Key(0).fold("fc1"), 7)
    assert [float(x).hex() for x in array.drifted.ravel()] == GOLDEN_ARRAY
    assert array.faults.ravel().tolist() == GOLDEN_FAULTS


GOLDEN_KEY = (2181943846, 2211115444)
GOLDEN_WORDS = {
    0: 2178865365,
    1: 2909761374,
    63: 3052154276,
    64: 3896728745,
    128: 1581656437,
    192: 501130563,
    255: 2925339879,
    256: 3095883540,
}
GOLDEN_NORMALS = {
    0: "-0x1.f218440000000p-1",
    1: "0x1.48e3a00000000p-2",
    63: "-0x1.c2b9120000000p-5",
    64: "0x1.482ee60000000p-1",
    128: "0x1.0ce4020000000p+0",
    192: "0x1.e44b0e0000000p-1",
    255: "-0x1.51b54a0000000p+0",
    256: "0x1.7a453a0000000p-4",
}
GOLDEN_DRIFT = {
    "lognormal": ("0x1.d5b7120000000p-1", "0x1.07ae7e0000000p-1", "0x1.2709740000000p+0"),
    "normal": ("0x1.f72c5e0000000p-1", "0x1.bc0c980000000p-1", "0x1.0744360000000p+0"),
    "normal_shift": ("0x1.f72c5e0000000p-1", "0x1.bc0c980000000p-1", "0x1.0744360000000p+0"),
    "uniform": ("0x1.e6d98a0000000p-1", "0x1.e4446c0000000p-1", "0x1.0b26560000000p-1"),
    "uniform_shift": ("0x1.e6d98a0000000p-1", "0x1.e4446c0000000p-1", "0x1.0b26560000000p-1"),
    "laplace": ("0x1.00e6180000000p+0", "0x1.00ff120000000p+0", "0x1.16e6200000000p+0"),
    "laplace_shift": ("0x1.00e6180000000p+0", "0x1.00ff120000000p+0", "0x1.16e6200000000p+0"),
    "gamma": ("0x1.66bee00000000p-1", "0x1.04b16a0000000p-2", "0x1.f269ae0000000p-1"),
    "pareto": ("0x1.bc86e40000000p-1", "0x1.be207c0000000p-1", "0x1.f3be380000000p+0"),
    "bernoulli": ("0x1.0000000000000p+0", "0x1.0000000000000p+0", "0x0.0p+0"),
    "retention": ("0x1.a82b700000000p-2", "0x1.14af7e0000000p-1", "0x1.7ddeac0000000p-2"),
    "relaxation": ("0x1.b484740000000p-1", "0x1.94b8140000000p-1", "0x1.c114aa0000000p-1"),
    "measured_relaxation": ("0x1.b30bd80000000p-1", "0x1.8964d80000000p-1", "0x1.c380bc0000000p-1"),
}
GOLDEN_ARRAY = [
    "0x1.f3a8b20000000p-21",
    "0x1.53f7c60000000p-14",
    "0x1.45b13e0000000p-21",
    "0x1.e289b60000000p-15",
    "0x1.4d18e80000000p-13",
    "0x1.46547e0000000p-15",
]
GOLDEN_FAULTS = [1, 0, 1, 2, 2, 0]
