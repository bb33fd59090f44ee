"""Random graphs are refused: exports in training mode, and operators that draw random numbers.

Runs of such a model differ by themselves, so their differences would be reported as the hardware's, and no two runs
would write the same bytes. A graph cannot be put in evaluation mode afterwards, nor seeded from outside.
"""

from collections.abc import Iterator
from typing import Any

import torch

from crossbar_sim.errors import InputError
from crossbar_sim.nn.files.operators import overload

_SWITCHES = ("train", "training")
_CHANCES = ("p", "dropout", "dropout_p")
_BATCH_NORMS = ("batch_norm", "native_batch_norm", "_native_batch_norm_legit")


def refuse_random(graph: dict[str, Any], signature: dict[str, Any]) -> None:
    """Raise InputError if an operator of the cleaned graph, or of one nested in it, is random.

    Args:
        graph: the cleaned graph.
        signature: which of its inputs are parameters, buffers and constants.
    """
    stored = set().union(*(_all_names(spec) for spec in signature["input_specs"] if "user_input" not in spec))
    for level, fixed in _graphs(graph, stored):
        live = _live(level)
        for node in level["nodes"]:
            operator = overload(node["target"])
            if operator is None:
                continue
            if not _taken(node) <= fixed:  # else a weight is standardised, the same for every batch
                _refuse_batches(node, operator)
            _refuse_dropout(node, operator)
            # A draw that reaches no output (a VAE of which only the mean is returned) harms nobody.
            if _draws(operator) and (operator._schema.is_mutable or live & _all_names(node["outputs"])):
                raise InputError(
                    f"the archive calls {node['target']}, which draws random numbers: every run would differ, "
                    "and chance would count as loss by the hardware; export the deterministic path in evaluation "
                    "mode (of a VAE its mean)"
                )


def _switched(
    node: dict[str, Any], operator: torch._ops.OpOverload
) -> tuple[bool, str | None, str | None, Any]:
    """Whether an operator acts as in training, the names of its switch and its probability, and the probability."""
    name = operator._schema.name.removeprefix("aten::")
    given = {argument.get("name"): argument["arg"] for argument in node["inputs"]}
    names = [argument.name for argument in operator._schema.arguments]
    switch = next((n for n in _SWITCHES if n in names), None)
    chance = next((n for n in _CHANCES if n in names), None)
    off = name != "native_dropout"  # whose train=None means True
    on = switch is None or given.get(switch, {}).get("as_bool", not off) is True
    p = given.get(chance, {})
    none = chance is not None and not p.get("as_float", p.get("as_int", 0))
    return on and not none, switch, chance, p.get("as_float", p.get("as_int"))


def _refuse_batches(node: dict[str, Any], operator: torch._ops.OpOverload) -> None:
    """Refuse normalisation by batch statistics, also in place or decomposed."""
    on, switch, _, _ = _switched(node, operator)
    name = operator._schema.name.removeprefix("aten::")
    if on and name in _BATCH_NORMS and operator._overloadname == "default":
        raise InputError(
            f"the archive was exported in training mode ({node['target']} has {switch}=True), so an output would "
            "depend on the other inputs of its batch: call model.eval() before torch.export.export (a batch "
            "normalisation with track_running_stats=False has no evaluation mode: give it running statistics)"
        )


def _refuse_dropout(node: dict[str, Any], operator: torch._ops.OpOverload) -> None:
    """Refuse active dropout, also in place or decomposed."""
    on, switch, chance, p = _switched(node, operator)
    if not on:
        return
    if torch.Tag.nondeterministic_seeded in operator.tags and (switch or chance) and not _draws(operator):
        why = f"{switch}=True" if switch else f"{chance}={p}"
        raise InputError(
            f"the archive was exported in training mode ({node['target']} has {why}), so its outputs would be "
            "random: call model.eval() before torch.export.export (functional dropout needs training=self.training)"
        )


def _draws(operator: torch._ops.OpOverload) -> bool:
    """Whether the operator is random for all arguments: torch tags operators that use its generator."""
    names = {argument.name for argument in operator._schema.arguments}
    conditional = names & {*_SWITCHES, "dropout", "dropout_p"}
    return torch.Tag.nondeterministic_seeded in operator.tags and not conditional


def graphs(graph: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The graph, and all graphs that are nested in its arguments."""
    yield graph
    for node in graph["nodes"]:
        for argument in node["inputs"]:
            if nested := argument["arg"].get("as_graph"):
                yield from graphs(nested["graph"])


def _graphs(graph: dict[str, Any], stored: set[str]) -> Iterator[tuple[dict[str, Any], set[str]]]:
    """The graph and all nested ones, each with the names of the values that do not depend on the user's inputs.

    Args:
        graph: of one level.
        stored: the names of its inputs that hold such values.
    """
    fixed = set(stored)
    nested = []
    for node in graph["nodes"]:
        operator = overload(node["target"])
        inner = [a["arg"]["as_graph"]["graph"] for a in node["inputs"] if a["arg"].get("as_graph")]
        if inner:
            operands = [name for a in node["inputs"] for name in _tensors(a["arg"])]
            for level in inner:
                own = [name for argument in level["inputs"] for name in _tensors(argument)]
                pairs = zip(own, operands, strict=False) if len(own) == len(operands) else ()
                nested.append((level, {name for name, given in pairs if given in fixed}))
        drawn = operator is not None and _draws(operator)
        if not drawn and _taken(node) <= fixed:
            fixed |= _all_names(node["outputs"])
    yield graph, fixed
    for level, known in nested:
        yield from _graphs(level, known)


def _taken(node: dict[str, Any]) -> set[str]:
    """Names of the values that a node takes."""
    return set().union(*(_all_names(a["arg"]) for a in node["inputs"] if not a["arg"].get("as_graph")))


def _tensors(argument: dict[str, Any]) -> list[str]:
    """Names of the tensors of one argument, in order."""
    several = argument.get("as_tensors") or []
    return [t["name"] for t in ([argument["as_tensor"]] if "as_tensor" in argument else several)]


def _live(graph: dict[str, Any]) -> set[str]:
    """Names of the values on which an output, or anything that is changed in place, depends."""
    live = _all_names(graph["outputs"])
    for node in reversed(graph["nodes"]):
        operator = overload(node["target"])
        changes = (
            operator._schema.is_mutable if operator is not None else node["target"].startswith("torch.ops.")
        )
        if changes or live & _all_names(node["outputs"]):
            live |= _all_names(node["inputs"])
    return live


def _all_names(value: Any) -> set[str]:
    """Every name in a part of the graph; names of arguments and of nested graphs may be among them."""
    if isinstance(value, dict):
        own = {value[key] for key in ("name", "as_name") if isinstance(value.get(key), str)}
        return own.union(*(_all_names(item) for item in value.values()))
    if isinstance(value, list):
        return set().union(*(_all_names(item) for item in value))
    return set()
