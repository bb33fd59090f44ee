"""The graph of a torch.export archive (.pt2), copied field by field through a list of what is allowed.

`models/model.json` is not only data to torch: names end up verbatim in generated Python source, sizes go through
`eval`, operator names through `getattr`, tree contexts through `import_module`, guards through `exec`. So nothing of
the original text is handed on. Each field that may hold text has a rule here; fields without a rule may hold only
numbers; fields that only serve debugging are dropped.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from crossbar_sim.errors import InputError
from crossbar_sim.nn.files.operators import check_call, check_operator
from crossbar_sim.nn.files.random_graphs import graphs, refuse_random
from crossbar_sim.nn.files.size_expressions import SYMBOL, check_expression, check_expressions
from crossbar_sim.text import words

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Parameter names; a segment may be a number or have a hyphen (`layers.0-1.weight`) but is never a
# dunder. torch writes such segments as getattr(self, "0-1"), so quotes must not pass.
_DOTTED = re.compile(r"(?!__)[A-Za-z0-9_-]+(\.(?!__)[A-Za-z0-9_-]+)*")
_CPU = {"type": "cpu", "index": None}
# Numbers of torch._export.serde.schema: dense tensors, and types that are plain numbers.
_STRIDED = 7
_TYPES = (*range(1, 14), *range(28, 36))

_LONGEST_GRAPH = 2**28
"""Characters of a program's JSON: a graph of 100,000 nodes has 50 million."""


def clean_program(text: bytes) -> dict[str, Any]:
    """Parse a serialised program and return a copy that torch can load without running code.

    Guards, metadata, sample values and the call signatures of submodules are dropped; devices
    become the CPU.

    Raises:
        InputError: the text is no serialised program, or holds something outside the allow-list.
    """
    program = parse_json(text, "models/model.json")
    try:
        check_expressions(program)
        graph_module = program["graph_module"]
        calls = [call for call in graph_module["module_call_graph"] if call["fqn"] == ""]
        call = calls[0]["signature"]
        clean = {
            "graph_module": {
                "graph": _copy("graph", graph_module["graph"]),
                "signature": _copy("signature", graph_module["signature"]),
                "module_call_graph": [
                    {
                        "fqn": "",
                        "signature": {
                            "inputs": _copy("inputs", call["inputs"]),
                            "outputs": _copy("outputs", call["outputs"]),
                            "in_spec": _tree(call["in_spec"]),
                            "out_spec": _tree(call["out_spec"]),
                            "forward_arg_names": [
                                _identifier("forward_arg_names", name)
                                for name in call.get("forward_arg_names") or []
                            ],
                        },
                    }
                ],
                "metadata": {},
            },
            "opset_version": {"aten": int(program["opset_version"]["aten"])},
            # A key that is no symbol would only be looked up and not found.
            "range_constraints": {
                name: _copy("range", limits)
                for name, limits in program["range_constraints"].items()
                if SYMBOL.fullmatch(name)
            },
            "schema_version": _copy("schema_version", program["schema_version"]),
            "verifiers": [_verifier(name) for name in program.get("verifiers", [])],
            "guards_code": [],
        }
        for level in graphs(clean["graph_module"]["graph"]):
            for node in level["nodes"]:
                check_call(node)
        refuse_random(clean["graph_module"]["graph"], clean["graph_module"]["signature"])
    except InputError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            "models/model.json of the archive is not a program as torch.export writes it "
            f"({type(error).__name__} at {str(error)[:60]!r}): export the model again"
        ) from error
    return clean


def parse_json(text: bytes, member: str) -> dict[str, Any]:
    """Parse a file of the archive that must be a JSON object; raises InputError with its name."""
    if len(text) > _LONGEST_GRAPH:
        raise InputError(
            f"{member} of the archive has {len(text)} characters, and at most {_LONGEST_GRAPH} are read: the file is "
            "damaged or made to fill memory"
        )
    try:
        value = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{member} of the archive is not readable JSON: the file is damaged") from error
    if not isinstance(value, dict):
        raise InputError(f"{member} of the archive is not a JSON object: the file is damaged")
    return value


def dotted(field: str, value: object) -> str:
    """Return a parameter's dotted name; raises InputError if it is anything else."""
    if isinstance(value, str) and len(value) <= 500 and _DOTTED.fullmatch(value):
        return value
    raise _badly_named(field, value)


def _badly_named(field: str, value: object) -> InputError:
    return InputError(
        f"the archive's graph holds {str(value)[:80]!r} as {field}: torch writes names into code that it runs, so "
        "crossbar-sim allows only letters, digits, _ and - in them, and such an archive is refused; rename it in the "
        "model, and export again"
    )


def _outside(field: str, value: object) -> InputError:
    return InputError(
        f"the archive's graph holds {str(value)[:80]!r} as {field}, which torch.export does not "
        "write and which could run code, so it is refused"
    )


def _identifier(field: str, value: object) -> str:
    if isinstance(value, str) and len(value) <= 500 and _IDENTIFIER.fullmatch(value):
        return value
    raise _badly_named(field, value)


def _argument_name(field: str, value: object) -> str | None:
    # Arguments of higher-order operators are positional and nameless; old nodes have no name.
    return value if value in ("", None) else _identifier(field, value)  # type: ignore[return-value]


def _text(field: str, value: object) -> str:
    # Becomes a Python literal through repr. The operators that take text are few and named.
    if isinstance(value, str) and len(value) <= 500 and value.isprintable():
        return value
    raise _outside(field, value)


def _number(field: str, value: object) -> float | str:
    # JSON has no infinity; the serialiser writes these words.
    if value in ("Infinity", "-Infinity", "NaN") or type(value) in (int, float):
        return value  # type: ignore[return-value]
    raise _outside(field, value)


def _one_of(field: str, value: object, allowed: tuple[int, ...]) -> int:
    if type(value) is int and value in allowed:
        return value
    raise _outside(field, value)


def _verifier(value: object) -> str:
    if value in ("TRAINING", "ATEN", "EDGE", ""):
        return str(value)
    raise _outside("verifier", value)


def _holder(metadata: object) -> dict[str, str]:
    """The name of the layer that calls an operator, to find tied weights by; `without_metadata` takes it out again."""
    stack = metadata.get("nn_module_stack") if isinstance(metadata, dict) else None
    innermost = stack.rpartition(";")[2].split(",") if isinstance(stack, str) else []
    # A layer's second call is marked by a number.
    name = innermost[1].partition("@")[0] if len(innermost) > 1 else ""
    return {"holder": name} if len(name) <= 500 and _DOTTED.fullmatch(name) else {}


def without_metadata(value: Any) -> Any:
    """A copy of a cleaned program in which every metadata field is empty, which is what torch gets."""
    if isinstance(value, dict):
        return {key: {} if key == "metadata" else without_metadata(item) for key, item in value.items()}
    return [without_metadata(item) for item in value] if isinstance(value, list) else value


def _many(rule: Callable[[str, Any], Any]) -> Callable[[str, Any], list[Any]]:
    return lambda field, values: [
        _many(rule)(field, value) if isinstance(value, list) else rule(field, value) for value in values
    ]


def _named(field: str, values: dict[str, Any]) -> dict[str, Any]:
    return {_identifier(field, name): _copy("value", value) for name, value in values.items()}


_RULES: dict[str, Callable[[str, Any], Any]] = {
    "name": _argument_name,
    "as_name": _identifier,
    "target": lambda _, value: check_operator(value),
    "as_operator": lambda _, value: check_operator(value),
    "expr_str": lambda _, value: check_expression(value),
    "parameter_name": dotted,
    "buffer_name": dotted,
    "tensor_constant_name": dotted,
    "user_input_name": dotted,
    "as_string": _text,
    "as_strings": _many(_text),
    "as_float": _number,
    "real": _number,
    "imag": _number,
    "as_floats": _many(_number),
    "as_float_lists": _many(_number),
    "tensor_values": _named,
    "sym_int_values": _named,
    "sym_bool_values": _named,
    "sym_float_values": _named,
    "layout": lambda field, value: _one_of(field, value, (_STRIDED,)),
    "as_layout": lambda field, value: _one_of(field, value, (_STRIDED,)),
    "dtype": lambda field, value: _one_of(field, value, _TYPES),
    "as_scalar_type": lambda field, value: _one_of(field, value, _TYPES),
    "as_memory_format": lambda field, value: _one_of(field, value, (1, 2, 3, 4)),
    "device": lambda *_: dict(_CPU),
    "as_device": lambda *_: dict(_CPU),
    # Stack traces and module names: for debuggers, and partly resolved by getattr.
    "metadata": lambda _, value: _holder(value),
}

# Fields whose values are numbers, truth values, null, or lists and objects of listed fields.
_STRUCTURE = words(
    """
    graph inputs outputs nodes is_single_tensor_return arg kind is_hop_single_tensor_return
    as_none as_tensor as_tensors as_int as_ints as_sym_int as_sym_ints
    as_bool as_bools as_sym_bool as_sym_bools as_graph
    as_optional_tensors as_sym_float as_sym_floats as_optional_tensor as_complex
    as_nested_tensors as_int_lists sizes requires_grad strides storage_offset
    as_expr hint input_specs output_specs user_input parameter buffer persistent tensor_constant
    constant_input value user_output loss_output buffer_mutation parameter_mutation
    user_input_mutation min_val max_val major minor
    """
)


def _copy(field: str, value: Any) -> Any:
    """Copy a JSON value, applying each field's rule; refuse unknown fields that are not empty."""
    if isinstance(value, dict):
        copied = {}
        for name, item in value.items():
            if name in _RULES:
                copied[name] = _RULES[name](name, item)
            elif name in _STRUCTURE:
                copied[name] = _copy(name, item)
            elif item not in (None, {}, [], "", False):
                # An empty field of a newer torch says nothing; a filled one might.
                raise InputError(
                    f"the archive's graph has a field {name[:40]!r} that crossbar-sim does not "
                    "know (custom objects and compiled parts are not loaded): export a plain model "
                    "again"
                )
        return copied
    if isinstance(value, list):
        return [_copy(field, item) for item in value]
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    raise _outside(field, value)


def _key(i: int, key: object) -> str:
    """A dict's key; one that is not an identifier ("class-logits", 0) is replaced rather than handed on."""
    return key if isinstance(key, str) and len(key) <= 500 and _IDENTIFIER.fullmatch(key) else f"_key_{i}"


def _names(context: object, count: int) -> list[object] | None:
    """The names that a tree's context gives its parts, as dicts and registered classes do; None if it gives none.

    A dict has a list of keys, a dataclass two lists (the fields that hold something and those that are None), a
    defaultdict its keys beside its factory.
    """
    if isinstance(context, str):
        try:
            context = json.loads(context)
        except ValueError:  # the name of a named tuple
            return None
    if isinstance(context, dict):
        context = context.get("dict_context")
    if isinstance(context, list) and len(context) == 2 and all(isinstance(part, list) for part in context):
        context = context[0]
    plain = isinstance(context, list) and all(isinstance(name, str | int) for name in context)
    return context if plain and len(context) == count and len(set(context)) == count else None  # type: ignore


def _tree(text: object) -> str:
    """Copy a tree of tuples, lists and dicts; registered classes become dicts of their fields, other types tuples.

    Contexts may otherwise import modules.
    """

    def node(spec: dict[str, Any]) -> dict[str, Any]:
        kind, children = spec["type"], [node(child) for child in spec["children_spec"]]
        if kind is None:
            return {"type": None, "context": None, "children_spec": children}
        names = _names(spec["context"], len(children))
        if kind == "builtins.dict" and names is None:
            raise _outside("the keys of a dict", spec["context"])
        if kind in ("builtins.tuple", "builtins.list") or names is None:
            kind = kind if kind == "builtins.list" else "builtins.tuple"
            return {"type": kind, "context": "null", "children_spec": children}
        keys = json.dumps([_key(i, name) for i, name in enumerate(names)])
        return {"type": "builtins.dict", "context": keys, "children_spec": children}

    if not isinstance(text, str):
        raise _outside("a tree", text)
    protocol, spec = json.loads(text)
    if protocol != 1:
        raise _outside("a tree's protocol", protocol)
    return json.dumps([1, node(spec)])
