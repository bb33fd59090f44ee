"""What an archived program takes: one tensor, however it was packed, and the batches that it accepts."""

import copy
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.export import ExportedProgram

BLOCK = 500
"""The largest batch that a program with limits is fed: as `nn.evaluate.BLOCK`."""

_CONSTANTS = ("as_none", "as_bool", "as_int", "as_float", "as_string")
_LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}


def tensor_inputs(program: dict[str, Any]) -> list[list[int | None]]:
    """Shapes of the user's tensor inputs of a cleaned program, None where a size is dynamic."""
    values = program["graph_module"]["graph"]["tensor_values"]
    names = [argument["as_tensor"]["name"] for _, argument in _inputs(program) if "as_tensor" in argument]
    return [[size.get("as_int") for size in values[name]["sizes"]] for name in names]


def other_inputs(program: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The inputs that are no tensors: "mask=None" of those that exporting made constants, names of the rest."""
    constants, rest = [], []
    for name, argument in _inputs(program):
        kind = next((key for key in _CONSTANTS if key in argument), None)
        if kind is not None:
            constants.append(f"{name}={None if kind == 'as_none' else argument[kind]!r}")
        elif "as_tensor" not in argument:
            rest.append(name)
    return constants, rest


def of_one_tensor(program: dict[str, Any]) -> dict[str, Any]:
    """The program as a function of one tensor: without its constants, and not packed in a dict or by keyword.

    Exporting computed with the constants, so that nothing in the graph reads them. A program of several tensors is
    returned as it is.
    """
    _, rest = other_inputs(program)
    module = program["graph_module"]
    specs, inputs = module["signature"]["input_specs"], module["graph"]["inputs"]
    if len(tensor_inputs(program)) != 1 or rest or len(specs) != len(inputs):
        return program
    bound = copy.deepcopy(program)
    module = bound["graph_module"]
    kept = [i for i, spec in enumerate(specs) if not _constant(spec)]
    module["signature"]["input_specs"] = [specs[i] for i in kept]
    module["graph"]["inputs"] = [inputs[i] for i in kept]
    call = module["module_call_graph"][0]["signature"]
    packed = {"type": "builtins.tuple", "context": "null", "children_spec": [_LEAF]}
    named = {"type": "builtins.dict", "context": "[]", "children_spec": []}
    call["in_spec"] = json.dumps([1, {**packed, "children_spec": [packed, named]}])
    if call["forward_arg_names"]:
        call["forward_arg_names"] = [name for name, argument in _inputs(program) if "as_tensor" in argument]
    return bound


def batches(program: "ExportedProgram") -> tuple[int | None, tuple[int, int | None] | None]:
    """The batch size to feed a loaded program, and its limits; None where it takes any, or one alone."""
    specs = program.graph_signature.user_inputs
    value = next(n.meta["val"] for n in program.graph.nodes if n.op == "placeholder" and n.name in specs)
    size = value.shape[0]
    if isinstance(size, int):
        return size, None
    expression = size.node.expr
    if len(expression.free_symbols) != 1:
        return None, None
    (symbol,) = expression.free_symbols
    known = program.range_constraints.get(symbol)
    low = int(known.lower) if known is not None and known.lower.is_finite else 0
    high = int(known.upper) if known is not None and known.upper.is_Integer else None
    if expression == symbol and low <= 2:
        # torch itself gives every dynamic size a lower limit of 2, which it does not hold anybody to.
        low = 1
        if high is None or high >= BLOCK:
            return None, None
    last = min(BLOCK, max(low, BLOCK if high is None else high))
    allowed = [int(expression.subs(symbol, n)) for n in {low, *range(max(low, 1), last + 1)}]
    fed = max((n for n in allowed if 1 <= n <= BLOCK), default=min(allowed))
    top = None if high is None else int(expression.subs(symbol, high))
    return fed, (int(expression.subs(symbol, low)), top)


def _constant(spec: dict[str, Any]) -> bool:
    own = spec.get("user_input", {}).get("arg", {})
    return "constant_input" in spec or any(key in own for key in _CONSTANTS)


def _inputs(program: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Names and arguments of the user's inputs."""
    found = []
    names = program["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"]
    for spec in program["graph_module"]["signature"]["input_specs"]:
        if "constant_input" in spec:
            found.append((spec["constant_input"]["name"], spec["constant_input"]["value"]))
        elif "user_input" in spec:
            argument = spec["user_input"]["arg"]
            tensor = argument.get("as_tensor", {}).get("name")
            found.append((tensor or (names[len(found)] if len(found) < len(names) else "a value"), argument))
    return found


_REGIONS = {"wrap_with_set_grad_enabled": "no_grad()", "wrap_with_autocast": "autocast()", "cond": "cond()"}


def regions(program: dict[str, Any]) -> list[str]:
    """A sentence on the layers that a cleaned program calls inside a nested graph, where they are on no array."""
    module = program["graph_module"]
    parameters = {
        spec["parameter"]["arg"]["name"]: spec["parameter"]["parameter_name"]
        for spec in module["signature"]["input_specs"]
        if "parameter" in spec
    }
    found: dict[str, list[str]] = {}
    for node in module["graph"]["nodes"]:
        region = _REGIONS.get(node["target"].removeprefix("torch.ops.higher_order."))
        for argument in node["inputs"] if region else ():
            arg = argument["arg"]
            for tensor in [arg["as_tensor"]] if "as_tensor" in arg else arg.get("as_tensors") or []:
                if (name := parameters.get(tensor["name"])) is not None:
                    found.setdefault(str(region), []).append(name.rpartition(".")[0] or name)
    return [
        f"{', '.join(dict.fromkeys(layers))}: inside torch.{region} and so on no array; their parameters drift only "
        "where the design lets digital parameters drift (preset bayesft does); to put them on arrays, export the model "
        "without it"
        for region, layers in found.items()
    ]
