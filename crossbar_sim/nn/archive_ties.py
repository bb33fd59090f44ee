"""Tied weights of an archive, which torch stores once but loads as copies of which its graph reads one.

An archive names the same bytes for every parameter that is tied, but the exported graph takes them all from the
last of these names, so that the other layers look unused. Here each operator reads the name that belongs to its
layer, and the copies become one parameter again, as in the module that was exported.
"""

from typing import Any

import torch


def tied(payloads: dict[str, Any]) -> list[list[str]]:
    """Groups of parameters that are the same bytes in the same shape, from a checked table of raw tensors."""
    groups: dict[str, list[str]] = {}
    for name, entry in payloads.items():
        if entry["is_param"]:
            meta = {key: value for key, value in entry["tensor_meta"].items() if key != "requires_grad"}
            groups.setdefault(f"{entry['path_name']} {meta}", []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def untangle(program: dict[str, Any], groups: list[list[str]]) -> None:
    """Let every operator of a cleaned program read its own layer's name of a tied weight, in place.

    Its layer is the one that the archive's debugging information names, else the one whose bias it adds.
    """
    graph, signature = program["graph_module"]["graph"], program["graph_module"]["signature"]
    inputs = {
        spec["parameter"]["parameter_name"]: spec["parameter"]["arg"]["name"]
        for spec in signature["input_specs"]
        if "parameter" in spec
    }
    holders = {argument: name.rpartition(".")[0] for name, argument in inputs.items()}
    own = {
        inputs[name]: {holders[inputs[n]]: inputs[n] for n in group if n in inputs}
        for group in groups
        for name in group
        if name in inputs
    }
    for node in graph["nodes"]:
        if not node["target"].startswith("torch.ops.aten."):
            continue
        tensors = [
            argument["arg"]["as_tensor"] for argument in node["inputs"] if "as_tensor" in argument["arg"]
        ]
        for lists in (argument["arg"].get("as_tensors") for argument in node["inputs"]):
            tensors += lists or []
        others = [holders[t["name"]] for t in tensors if t["name"] in holders and t["name"] not in own]
        for tensor in tensors:
            names = own.get(tensor["name"], {})
            wanted = (node["metadata"].get("holder"), *others)
            tensor["name"] = next((names[h] for h in wanted if h in names), tensor["name"])


def tie(program: torch.export.ExportedProgram, groups: list[list[str]]) -> None:
    """Make one parameter of each group in a loaded program."""
    state = program.state_dict
    for first, *others in groups:
        for name in others:
            if first in state and name in state and torch.equal(state[first], state[name]):
                state[name] = state[first]
