"""Archives that would run a shell command: refused or disarmed, and shown to be armed."""

import io
import json
import os
import struct
import sys
import zipfile

import pytest
import torch
from helpers import archive_files as files

from crossbar_sim.errors import InputError
from crossbar_sim.nn.files.archive import load_archive, rebuild
from crossbar_sim.nn.files.loading import load_model
from crossbar_sim.nn.files.operators import check_operator
from crossbar_sim.nn.files.size_expressions import check_expression

X = torch.ones(2, 4)


@pytest.fixture(scope="module")
def benign() -> files.Members:
    return files.unpacked(files.exported(files.Scaled(), X))


@pytest.fixture
def marker(tmp_path, monkeypatch):
    # For the attack that imports a module lying about.
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path / "marker"


@pytest.mark.parametrize("attack", [*files.REFUSED, *files.STRIPPED])
def test_the_attack_works_on_torch_alone(attack, benign, marker):
    """The control: were torch to mend one of these routes, its test below would prove nothing."""
    hostile = files.packed(attack(benign, marker))
    try:
        program = torch.export.load(io.BytesIO(hostile))
        program.module()(X)
    except Exception as error:
        print(error)
    assert marker.exists()


@pytest.mark.parametrize("attack", files.REFUSED)
def test_hostile_archive_is_refused_unexecuted(attack, benign, marker, tmp_path):
    path = tmp_path / "hostile.pt2"
    path.write_bytes(files.packed(attack(benign, marker)))
    with pytest.raises(InputError, match=r"refused|run code"):
        rebuild(path.read_bytes())
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("attack", files.STRIPPED)
def test_hostile_extra_is_left_behind(attack, benign, marker, tmp_path):
    path = tmp_path / "hostile.pt2"
    path.write_bytes(files.packed(attack(benign, marker)))
    model = load_model(path).module
    path.write_bytes(files.packed(benign))
    assert torch.equal(model(X), load_model(path).module(X))
    assert not marker.exists()


def test_nothing_pickled_and_no_text_of_the_original_reaches_torch(benign):
    clean, _ = rebuild(files.packed(benign))
    members = files.unpacked(clean.read())
    assert members[files.SAMPLES] == b""
    raw = ("/weight_", "/tensor_")
    others = {n: data for n, data in members.items() if not any(part in n for part in raw)}
    assert not [name for name, data in others.items() if data[:1] == b"\x80" or data[:2] == b"PK"]
    assert b"stack_trace" not in members[files.GRAPH]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_the_same_name_are_refused(benign, marker):
    hostile = files.in_size_expression(benign, marker)[files.GRAPH]
    for content in (
        files.packed(benign, twice=(files.GRAPH, hostile)),
        # The same member under another top folder, which one reader strips and another does not.
        files.packed(benign, twice=("other/models/model.json", hostile)),
    ):
        with pytest.raises(InputError, match="two members"):
            load_archive(content)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["archive/../../escape", "/etc/escape", "archive\\..\\escape"])
def test_member_outside_the_archive_is_refused(name, benign):
    with pytest.raises(InputError, match="outside"):
        load_archive(files.packed({**benign, name: b"x"}))


def test_absurd_size_is_refused_without_unpacking(benign):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in benign.items():
            file.writestr(name, content)
        file.writestr("archive/data/weights/weight_77", bytes(2**27))
    with pytest.raises(InputError, match="fill memory"):
        load_archive(buffer.getvalue())


def test_a_member_cannot_be_larger_than_it_claims(benign):
    """The size in the directory is a lie; unpacking stops there and the checksum tells."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in benign.items():
            file.writestr(name, content)
    content = bytearray(buffer.getvalue())
    # Central directory entries: the uncompressed size is at offset 24.
    at = content.find(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", 3)
    with pytest.raises(InputError):
        load_archive(bytes(content))


@pytest.mark.parametrize("folder", ["aotinductor", "executorch"])
def test_compiled_parts_are_refused(folder, benign):
    with pytest.raises(InputError, match="compiled code"):
        load_archive(files.packed({**benign, f"archive/data/{folder}/model/run.so": b"\x7fELF"}))


def test_weights_larger_than_their_bytes_are_refused(benign):
    def change(config):
        config["config"]["fc.weight"]["tensor_meta"]["sizes"] = [{"as_int": 2**40}, {"as_int": 4}]

    with pytest.raises(InputError, match="only 12 values"):
        load_archive(files.packed(files.edited(benign, files.WEIGHTS, change)))


@pytest.mark.parametrize("name", ['a"); import os; ("', 'a"-"b', "__class__", "fc.__init__", "a b", "", 3])
def test_parameter_names_are_names(name, benign):
    def change(program):
        specs = program["graph_module"]["signature"]["input_specs"]
        specs[0]["parameter"]["parameter_name"] = name

    with pytest.raises(InputError, match="as parameter_name"):
        load_archive(files.packed(files.edited(benign, files.GRAPH, change)))


@pytest.mark.parametrize(
    "expression",
    [
        "Symbol('s77', positive=True, integer=True)",
        "Mul(Integer(2), Symbol('s0', integer=True))",
        "Add(Pow(Symbol('s0'), Integer(2)), Integer(-1))",
        "FloorDiv(Symbol('u3'), Integer(2))",
        "Max(1, s0 + 2*s1) - (s3 // 4) % 2",
        "s0**2 >= 4",
        "Eq(s0, 3)",
        "Float('0.5', precision=53)",
    ],
)
def test_size_expressions_of_torch_pass(expression):
    assert check_expression(expression) == expression


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "().__class__",
        "s0.__class__",
        "open('x', 'w')",
        "Symbol('s0', cls=print)",
        "Symbol('__import__')",
        "Symbol(Symbol)",
        "lambda: 0",
        "[s0]",
        "s0 if s0 else s1",
        "Max(*s0)",
        "Max(s0, key=s1)",
        "s0; s1",
        "s0 # x",
        "9**9**9**9",
        "Pow(Pow(9, 8), 8)",
        "Pow(9, 99999999)",
        "s99999999999",
        "1" * 30,
        "s0^2",
        "s0\n",
        "eval('1')",
        "Function('f')(s0)",
        "S",
        "ѕ0",
        "s0+" * 400 + "1",
        "(" * 300 + "1" + ")" * 300,
        "",
        None,
        3,
    ],
)
def test_other_expressions_are_refused(expression):
    with pytest.raises(InputError, match="plain arithmetic"):
        check_expression(expression)


@pytest.mark.parametrize(
    "name",
    [
        "torch.ops.aten.linear.default",
        "torch.ops.aten.lstm.input",
        "torch.ops.aten._to_copy.default",
        "torch.ops.aten.pad.default",
        "torch.ops.aten.fft_fft.default",
        "torch.ops.aten.fft_rfft2.default",
        "torch.ops.aten.fft_irfftn.default",
        "torch.ops.aten.__and__.Tensor",
        "torch.ops.prims.convert_element_type.default",
        "torch.ops.higher_order.wrap_with_set_grad_enabled",
        "_operator.getitem",
        "torch.sym_max",
    ],
)
def test_operators_of_exports_pass(name):
    assert check_operator(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "torch.os.system",
        "torch.load",
        "torch.hub.load",
        "torch.ops.load_library",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten.manual_seed.default",
        "torch.ops.aten.set_grad_enabled.default",
        "torch.ops.aten.__init__.__globals__",
        "torch.ops.aten.linear",
        "torch.ops.aten.linear.default.__class__",
        "torch.ops.higher_order.aoti_call_delegate",
        "torch.ops.higher_order.call_torchbind",
        "torch.ops.mylib.op.default",
        "_operator.attrgetter",
        "_operator.call",
        "_operator.methodcaller",
        "math.factorial",
        "#extension:op",
        "builtins.eval",
        "",
        None,
    ],
)
def test_other_operators_are_refused(name):
    with pytest.raises(InputError, match="archive calls"):
        check_operator(name)


def test_deep_json_is_refused(benign):
    deep = b'{"graph_module": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(InputError):
        load_archive(files.packed({**benign, files.GRAPH: deep}))


def test_refusal_is_one_line_even_if_the_file_holds_newlines(benign, tmp_path):
    def change(program):
        program["graph_module"]["graph"]["nodes"][0]["target"] = "a\nb"

    path = tmp_path / "m.pt2"
    path.write_bytes(files.packed(files.edited(benign, files.GRAPH, change)))
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert os.linesep not in str(caught.value)
    assert json.loads(files.unpacked(path.read_bytes())[files.GRAPH])
