"""Real torch.export archives and ways to turn them hostile, for the tests."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

GRAPH = "archive/models/model.json"
SAMPLES = "archive/data/sample_inputs/model.pt"
WEIGHTS = "archive/data/weights/model_weights_config.json"
CONSTANTS = "archive/data/constants/model_constants_config.json"

Members = dict[str, bytes]


class Scaled(nn.Module):
    """A linear layer and a tensor constant, so that an archive has weights and constants."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.factor = torch.tensor([1.0, 2.0, 3.0])

    def forward(self, x):
        return self.fc(x) * self.factor


def exported(model: nn.Module, x: torch.Tensor, dynamic: bool = False) -> bytes:
    shapes = ({0: torch.export.Dim("batch", min=1, max=512)},) if dynamic else None
    return saved(torch.export.export(model.eval(), (x,), dynamic_shapes=shapes))


def saved(program: torch.export.ExportedProgram) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def unpacked(archive: bytes) -> Members:
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return {name: file.read(name) for name in file.namelist()}


def packed(members: Members, twice: tuple[str, bytes] | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
        if twice:
            file.writestr(*twice)
    return buffer.getvalue()


def edited(members: Members, name: str, change: Callable[[Any], Any]) -> Members:
    value = json.loads(members[name])
    change(value)
    return {**members, name: json.dumps(value).encode()}


class Shell:
    """Unpickling one of these runs a shell command, which is what the marker file proves."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def shell_pickle(marker: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"x": Shell(marker)}, buffer)
    return buffer.getvalue()


# Each attack takes the members of a benign archive and the marker that its code would create.


def in_sample_inputs(members: Members, marker: Path) -> Members:
    return {**members, SAMPLES: shell_pickle(marker)}


def in_weights(members: Members, marker: Path) -> Members:
    def change(config):
        config["config"]["fc.weight"].update(path_name="weight_99", use_pickle=True)

    weights = edited(members, WEIGHTS, change)
    return {**weights, "archive/data/weights/weight_99": shell_pickle(marker)}


def in_legacy_weights(members: Members, marker: Path) -> Members:
    return {
        **{name: content for name, content in members.items() if name != WEIGHTS},
        "archive/data/weights/model.pt": shell_pickle(marker),
    }


def in_constants(members: Members, marker: Path) -> Members:
    def change(config):
        config["config"]["factor"].update(path_name="tensor_99", use_pickle=True)

    return {
        **edited(members, CONSTANTS, change),
        "archive/data/constants/tensor_99": shell_pickle(marker),
    }


def in_opaque_constant(members: Members, marker: Path) -> Members:
    def change(config):
        config["config"]["factor"].update(path_name="opaque_obj_0", use_pickle=True)

    return {
        **edited(members, CONSTANTS, change),
        "archive/data/constants/opaque_obj_0": pickle.dumps(Shell(marker)),
    }


def in_size_expression(members: Members, marker: Path) -> Members:
    def change(program):
        sizes = program["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
        code = f"__import__('os').system('touch {marker}')"
        sizes[0] = {"as_expr": {"expr_str": code, "hint": None}}

    return edited(members, GRAPH, change)


def in_placeholder_name(members: Members, marker: Path) -> Members:
    # The name is written into generated source, where a default argument is evaluated at once.
    code = f"x=__import__('os').system('touch {marker}')"
    text = json.dumps(json.loads(members[GRAPH]))
    for before, after in (('{"name": "x"}', {"name": code}), ('["x"]', [code])):
        text = text.replace(before, json.dumps(after))
    return {**members, GRAPH: text.replace('"x": {"dtype"', f'{json.dumps(code)}: {{"dtype"').encode()}


def in_operator(members: Members, marker: Path) -> Members:
    def change(program):
        node = program["graph_module"]["graph"]["nodes"][0]
        # torch verifies that targets are operators, but operators can write files.
        node["target"] = "torch.ops.aten.from_file.default"
        arguments = {"filename": {"as_string": str(marker)}, "shared": {"as_bool": True}}
        arguments["size"] = {"as_int": 1}
        node["inputs"] = [{"name": n, "arg": a, "kind": 1} for n, a in arguments.items()]

    return edited(members, GRAPH, change)


def in_guards(members: Members, marker: Path) -> Members:
    def change(program):
        program["guards_code"] = [f"__import__('os').system('touch {marker}') == 0"]

    return edited(members, GRAPH, change)


def in_tree(members: Members, marker: Path) -> Members:
    # The context of a dict may name an enumeration, whose module is imported.
    module = f"hostile_{marker.parent.name.replace('-', '_')}"
    (marker.parent / f"{module}.py").write_text(
        f"import enum, pathlib\npathlib.Path({str(marker)!r}).touch()\nE = enum.Enum('E', {{'A': 1}})\n"
    )
    context = json.dumps([{"__enum__": True, "fqn": f"{module}:E", "name": "A"}])

    def change(program):
        signature = program["graph_module"]["module_call_graph"][0]["signature"]
        tree = json.loads(signature["in_spec"])
        tree[1]["children_spec"][1].update(
            context=context, children_spec=[{"type": None, "context": None, "children_spec": []}]
        )
        signature["in_spec"] = json.dumps(tree)

    return edited(members, GRAPH, change)


REFUSED = (
    in_weights,
    in_legacy_weights,
    in_constants,
    in_opaque_constant,
    in_size_expression,
    in_placeholder_name,
    in_operator,
    in_tree,
)
# These parts are never handed to torch, so such an archive loads, without the part.
STRIPPED = (in_sample_inputs, in_guards)
