"""Hardware to and from dictionaries, JSON, TOML, files and words."""

import json
import math
import os
import subprocess
import sys
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbar_sim import ALL_DRIFTS, Differential, GammaDrift, Hardware, InputError, LogNormalDrift, Offset
from crossbar_sim.crossbar import configuration
from crossbar_sim.crossbar.configuration import LATER
from crossbar_sim.crossbar.converters import DAC, LayerRange, Ranges
from crossbar_sim.crossbar.devices import PolynomialNoise, ProgrammingNoise, StuckCells
from crossbar_sim.crossbar.hardware import CHOICES, FAMILIES


def between(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False)


RANGES = {
    "alpha": between(1.001, 1e6),
    "p": between(0, 1),
    "nu": between(-1, 1),
    "nu_sigma": between(0, 0.1),
    "t0": between(1e-3, 1e3),
    "time": between(1, 1e9),
    "mean_per_ln": between(-1e-6, 1e-6),
    "sigma_per_ln": between(0, 1e-6),
    "sigma": between(0, 3),
    "off": between(0, 0.5),
    "on": between(0, 0.5),
    "coefficients": st.lists(between(-1e-4, 1e-4), min_size=1, max_size=6).map(tuple),
    "mean": st.lists(between(-1e-5, 1e-5), min_size=1, max_size=4).map(tuple),
    "reference": between(1e-6, 1e-3),
    "g_min": between(0, 1e-5),
    "g_max": between(2e-5, 0.1),
    "levels": st.none() | st.integers(2, 2**20),
    "scale_per": st.sampled_from(["matrix", "column"]),
    "clip": st.none() | between(1e-3, 100),
    "copies": st.integers(1, 1024),
    "tile": st.tuples(st.integers(1, 4096), st.integers(1, 4096)),
    **{name: between(0.1, 100) for name in ("r_word", "r_bit", "r_source", "r_sense")},
    "tolerance": between(1e-9, 1e-3),
    "inputs": st.sampled_from(["one", "both"]),
    "method": st.sampled_from(["fast", "exact"]),
    "bits": st.none() | st.integers(2, 24),
    "per": st.sampled_from(["pair", "column"]),
    "signed": st.sampled_from(["sign-magnitude", "two-phase"]),
    "percentile": between(1, 100),
    "share": st.integers(1, 64),
    "gain_sigma": between(0, 1),
    "offset_sigma": between(0, 1),
    "of": st.sampled_from(["g_max", "g"]),
    "amplitude": between(0, 1),
    "occupancy": between(0, 1),
}
SIEMENS = st.lists(between(-1e-6, 1e-6), min_size=1, max_size=4).map(tuple)
OF_KIND = {
    "measured_relaxation": {"mean_per_ln": SIEMENS, "spread": SIEMENS, "spread_per_ln": SIEMENS},
    "dac": {
        "range": st.sampled_from(["dynamic", "calibrated"]) | between(1e-3, 1e3),
        "slice_bits": st.none(),
    },
    "adc": {"range": st.just("calibrated") | between(1e-9, 1.0)},  # others depend on the rest of the design
}


def any_of(name: str) -> st.SearchStrategy:
    if name == "ranges":
        layer = st.builds(
            LayerRange, st.none() | between(1e-3, 1e3), st.lists(between(1e-9, 1.0), max_size=8).map(tuple)
        )
        return st.none() | st.dictionaries(st.text(max_size=20), layer, min_size=1, max_size=4).map(Ranges.of)
    known = RANGES | {"cell_bits": st.none(), "encoding": st.none()}
    members = [
        st.builds(cls, **{f.name: (known | OF_KIND.get(cls.kind, {}))[f.name] for f in fields(cls)})
        for cls in FAMILIES[name].kinds.values()
    ]
    return st.one_of(*members, *([st.none()] if FAMILIES[name].optional else []))


ANY = st.builds(
    Hardware,
    tile=RANGES["tile"],
    **{name: any_of(name) for name in FAMILIES},
    **{name: st.sampled_from(words) for name, words in CHOICES.items()},
)


@settings(max_examples=200, deadline=None)
@given(ANY)
def test_every_design_survives_every_format(hardware):
    as_dict = configuration.to_dict(hardware)
    assert Hardware.from_dict(as_dict) == hardware
    assert Hardware.from_dict(json.loads(json.dumps(as_dict))) == hardware
    assert Hardware.from_json(configuration.to_json(hardware)) == hardware
    assert Hardware.from_toml(configuration.to_toml(hardware)) == hardware
    assert configuration.to_json(
        Hardware.from_toml(configuration.to_toml(hardware))
    ) == configuration.to_json(hardware)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_a_design_or_one_sentence(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("random")
    for name in ("x.toml", "x.json"):
        (folder / name).write_bytes(data)
        try:
            Hardware.load(folder / name)
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017 - most bytes are refused, none must be


def test_a_dictionary_has_every_field_and_the_kinds():
    data = configuration.to_dict(Hardware(drift=GammaDrift(0.3), stuck=StuckCells(off=0.1)))
    assert list(data) == [f.name for f in fields(Hardware) if f.name not in LATER]
    assert data["drift"] == {"kind": "gamma", "sigma": 0.3}
    assert data["stuck"] == {"kind": "stuck", "off": 0.1, "on": 0.0}
    assert data["mapping"]["kind"] == "differential"
    assert data["programming"] is None


def test_a_design_without_periphery_has_the_dictionary_that_results_were_kept_under():
    data = configuration.to_dict(Hardware())
    assert not set(data) & {"dac", "adc", "read_noise", "wires", "ranges"}
    assert "cell_bits" not in data["mapping"]
    assert configuration.to_dict(Hardware(dac=DAC()))["dac"]["kind"] == "dac"
    sliced = Hardware(Differential(levels=16, cell_bits=2))
    assert configuration.to_dict(sliced)["mapping"]["cell_bits"] == 2
    assert Hardware.from_toml(configuration.to_toml(sliced)) == sliced


def test_what_is_left_out_takes_the_default():
    assert Hardware.from_dict({}) == Hardware()
    assert Hardware.from_toml('bias = "row"\n[mapping]\nkind = "offset"') == Hardware(
        mapping=Offset(), bias="row"
    )


def test_equal_designs_are_written_alike():
    assert configuration.to_json(Hardware(drift=LogNormalDrift(1))) == configuration.to_json(
        Hardware(drift=LogNormalDrift(1.0))
    )


LAW = {"kind": "lognormal", "sigma": 0.6}
BAD = [
    ({"drfit": LAW}, ["'drfit'", "did you mean 'drift'", "programming"]),
    ({"drift": LAW | {"sgima": 1}}, ["drift.sgima", "did you mean 'drift.sigma'"]),
    ({"drift": {"sigma": 0.6}}, ["drift.kind is missing", "lognormal", "pareto"]),
    ({"drift": {"kind": "lognorml"}}, ["drift.kind", "did you mean 'lognormal'"]),
    ({"drift": {"kind": ["x"]}}, ["drift.kind", "['x']"]),
    ({"drift": {"kind": "lognormal"}}, ["drift.sigma is missing", "a finite number"]),
    ({"drift": LAW | {"sigma": -1}}, ["drift.sigma=-1", "0 .. 12"]),
    ({"drift": LAW | {"sigma": "0.6"}}, ["drift.sigma='0.6'", "a finite number"]),
    ({"drift": LAW | {"sigma": True}}, ["drift.sigma=True", "a finite number"]),
    ({"drift": LAW | {"sigma": math.nan}}, ["drift.sigma=nan", "a finite number"]),
    ({"drift": LAW | {"sigma": math.inf}}, ["drift.sigma=inf", "a finite number"]),
    ({"drift": LAW | {"sigma": 10**400}}, ["drift.sigma=an integer of 1329 bits"]),
    ({"drift": LAW | {"sigma": None}}, ["drift.sigma=None"]),
    ({"drift": 0.6}, ["drift=0.6", "lognormal"]),
    ({"mapping": None}, ["mapping=None", "differential"]),
    ({"mapping": {"kind": "offset", "levels": 2.0}}, ["mapping.levels=2.0", "an integer"]),
    ({"mapping": {"kind": "offset", "levels": 1}}, ["mapping.levels=1", "2 .. 1048576"]),
    ({"mapping": {"kind": "offset", "g_max": 0}}, ["mapping.g_max=0"]),
    ({"mapping": {"kind": "offset", "scale_per": "row"}}, ["mapping.scale_per='row'", "'column'"]),
    ({"stuck": {"kind": "stuck", "off": 0.6, "on": 0.6}}, ["stuck.off=0.6", "on=0.6"]),
    ({"tile": [128]}, ["tile=[128]", "two integers"]),
    ({"tile": [0, 128]}, ["tile=(0, 128)", "1 .. 2147483647"]),
    ({"bias": "Row"}, ["bias='Row'", "'digital', 'row', 'drifting'"]),
    ({"programming": {"kind": "polynomial", "coefficients": [1, "2"], "reference": 1e-6}},
     ["programming.coefficients=[1, '2']", "a list of finite numbers"]),
    ({1: 2}, ["1 is unknown"]),
    ([], ["[]"]),
    ("text", ["'text'"]),
]  # fmt: skip


@pytest.mark.parametrize(("data", "pieces"), BAD)
def test_bad_tables_get_one_sentence_with_the_full_key(data, pieces):
    with pytest.raises(InputError) as caught:
        Hardware.from_dict(data, source="hw.toml")
    sentence = str(caught.value)
    assert sentence.startswith("hw.toml: ")
    assert "\n" not in sentence
    for piece in pieces:
        assert piece in sentence


TEXTS = {
    "half.json": ("{", "JSON"),
    "deep.json": ("[" * 60000, "too deeply"),
    "deep.toml": ("a = " + "[" * 60000, "too deeply"),
    "nan.json": ('{"tile": NaN}', "NaN"),
    "inf.json": ('{"drift": {"kind": "gamma", "sigma": 1e999}}', "drift.sigma=inf"),
    "nan.toml": ("drift = {kind = 'gamma', sigma = nan}", "drift.sigma=nan"),
    "twice.json": ('{"bias": "row", "bias": "row"}', "'bias' is given twice"),
    "twice.toml": ('bias = "row"\nbias = "row"', "TOML"),
    "digits.json": ('{"tile": ' + "9" * 5000 + "}", "JSON"),
    "list.json": ("[1, 2]", "[1, 2]"),
    "text.toml": ("not toml at all", "TOML"),
    "huge.toml": ("# " + "x" * 2**17, "65536 bytes"),
    "kind.yaml": ("drift: 1", ".toml or .json"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_bad_files_get_one_sentence_with_the_path(tmp_path, name):
    text, piece = TEXTS[name]
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        Hardware.load(path)
    assert str(path) in str(caught.value)
    assert piece in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_files(tmp_path):
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "binary.toml").write_bytes(bytes(range(256)))
    os.mkfifo(tmp_path / "pipe.json")
    cases = {
        tmp_path / "missing.toml": "no such file",
        tmp_path / "folder.toml": "a directory",
        tmp_path / "binary.toml": "UTF-8",
        tmp_path / "pipe.json": "not a regular file",
        tmp_path / "binary.toml" / "below.toml": "cannot be opened",
        "null\0.toml": "null byte",
        "new\nline.toml": "no such file",
        "x" * 5000 + ".toml": "cannot be opened",
        5: "path=5",
    }
    for path, piece in cases.items():
        with pytest.raises(InputError, match=piece) as caught:
            Hardware.load(path)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(tmp_path):
    path = tmp_path / "secret.toml"
    path.touch(mode=0)
    with pytest.raises(InputError, match="Permission denied"):
        Hardware.load(path)


def test_files_are_read_by_their_suffix(tmp_path):
    hardware = Hardware(drift=GammaDrift(0.3), mapping=Offset(levels=16))
    (tmp_path / "a.toml").write_text(configuration.to_toml(hardware))
    (tmp_path / "a.JSON").write_text("\ufeff" + configuration.to_json(hardware), "utf-8")
    assert Hardware.load(tmp_path / "a.toml") == hardware
    assert Hardware.load(str(tmp_path / "a.JSON")) == hardware


def test_parts_from_the_words_of_a_command_line():
    assert configuration.from_text("drift", "gamma:sigma=0.3") == GammaDrift(0.3)
    assert configuration.from_text(
        "mapping", " offset: g_min=1e-6 ,g_max=1e-4,levels=16,clip=none"
    ) == Offset(1e-6, 1e-4, 16)
    assert configuration.from_text("mapping", "offset") == Offset()
    assert configuration.from_text("programming", "constant:sigma=.05") == ProgrammingNoise(0.05)
    assert configuration.from_text(
        "programming", "polynomial:coefficients=1e-6/-2E-7,reference=4e-5"
    ) == PolynomialNoise((1e-6, -2e-7), 4e-5)
    assert configuration.from_text("stuck", "stuck:off=0.01") == StuckCells(off=0.01)
    assert configuration.from_text("drift", "none") is None


@pytest.mark.parametrize(
    ("family", "text", "piece"),
    [
        ("drift", "gamm:sigma=0.3", "did you mean 'gamma'"),
        ("drift", "", "lognormal"),
        ("drift", "gamma", "drift.sigma is missing"),
        ("drift", "gamma:", "kind:key=value"),
        ("drift", "gamma:0.3", "kind:key=value"),
        ("drift", "gamma:sigma=", "kind:key=value"),
        ("drift", "gamma:sigma=0.3,", "kind:key=value"),
        ("drift", "gamma:sigma=0.3,sigma=0.4", "given twice"),
        ("drift", "gamma:sgma=0.3", "did you mean 'drift.sigma'"),
        ("drift", "gamma:kind=gamma,sigma=1", "drift.kind"),
        ("drift", "gamma:sigma=4", "drift.sigma=4"),
        ("drift", "gamma:sigma=nan", "drift.sigma='nan'"),
        ("drift", "gamma:sigma=inf", "drift.sigma='inf'"),
        ("drift", "gamma:sigma=1e999", "drift.sigma=inf"),
        ("drift", "gamma:sigma=1_0", "drift.sigma='1_0'"),
        ("drift", "gamma:sigma=\u0663", "drift.sigma="),
        ("drift", "gamma:sigma=true", "drift.sigma='true'"),
        ("drift", "gamma:sigma=none", "drift.sigma=None"),
        ("drift", "gamma:sigma=" + "9" * 5000, "drift.sigma="),
        ("drift", "gamma:\n=1", "kind:key=value"),
        ("mapping", "none", "differential"),
        ("mapping", "offset:levels=16.0", "mapping.levels=16.0"),
        ("mapping", "offset:scale_per=row", "mapping.scale_per='row'"),
        ("programming", "polynomial:coefficients=1/x,reference=1", "programming.coefficients"),
        ("colour", "red", "the part 'colour'"),
        ("drift", 0.6, "drift=0.6"),
    ],
)
def test_bad_words_get_one_sentence(family, text, piece):
    with pytest.raises(InputError) as caught:
        configuration.from_text(family, text)
    assert piece in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_forms_name_every_law_and_field():
    listed = dict(configuration.forms("drift"))
    assert len(listed) == len(ALL_DRIFTS)
    assert "retention:nu=NUMBER,time=NUMBER,[t0=NUMBER],[nu_sigma=NUMBER]" in listed
    assert all(summary.startswith("Eq. (") for summary in listed.values())


def test_pydantic_is_loaded_only_by_reading():
    code = "import sys, crossbar_sim.crossbar.configuration; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
