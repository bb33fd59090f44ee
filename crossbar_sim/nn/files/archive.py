"""Archives of torch.export (.pt2): read, checked, and turned into a module with its inputs and weights."""

import copy
import io
import json
import logging
import re
import threading
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from crossbar_sim.errors import InputError
from crossbar_sim.nn.files.exported_graph import clean_program, dotted, parse_json, without_metadata

if TYPE_CHECKING:
    from torch.export import ExportedProgram


# Tied weights of an archive, which torch stores once but loads as copies of which its graph reads one.
#
# An archive names the same bytes for every parameter that is tied, but the exported graph takes them all from the
# last of these names, so that the other layers look unused. Here each operator reads the name that belongs to its
# layer, and the copies become one parameter again, as in the module that was exported.


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


# What an archived program takes: tensors, however they were packed, and the batches that it accepts.


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
    """The inputs that are not tensors: those that the export made constant, as "mask=None"; names of the others."""
    constants, rest = [], []
    for name, argument in _inputs(program):
        kind = next((key for key in _CONSTANTS if key in argument), None)
        if kind is not None:
            constants.append(f"{name}={None if kind == 'as_none' else argument[kind]!r}")
        elif "as_tensor" not in argument:
            rest.append(name)
    return constants, rest


def of_tensors(program: dict[str, Any]) -> dict[str, Any]:
    """The program as a function of its tensors: of one by position, of several by the names that the graph has.

    Without its constant inputs, dicts and lists: exporting computed with the constants, so that nothing in the graph
    reads them.
    """
    _, rest = other_inputs(program)
    module = program["graph_module"]
    specs, inputs = module["signature"]["input_specs"], module["graph"]["inputs"]
    names = [name for name, argument in _inputs(program) if "as_tensor" in argument]
    if not names or rest or len(specs) != len(inputs):
        return program
    bound = copy.deepcopy(program)
    module = bound["graph_module"]
    kept = [i for i, spec in enumerate(specs) if not _constant(spec)]
    module["signature"]["input_specs"] = [specs[i] for i in kept]
    module["graph"]["inputs"] = [inputs[i] for i in kept]
    call = module["module_call_graph"][0]["signature"]
    one = len(names) == 1
    packed = {"type": "builtins.tuple", "context": "null", "children_spec": [_LEAF] if one else []}
    leaves = [] if one else [_LEAF] * len(names)
    named = {
        "type": "builtins.dict",
        "context": json.dumps([] if one else names),
        "children_spec": leaves,
    }
    call["in_spec"] = json.dumps([1, {**packed, "children_spec": [packed, named]}])
    if call["forward_arg_names"] or not one:
        call["forward_arg_names"] = names
    return bound


def batches(program: "ExportedProgram") -> tuple[int | None, tuple[int, int | None] | None]:
    """The batch size for a loaded program, and its limits; None where it takes any size, or only one."""
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


# The weights of a torch.export archive: raw bytes whose description is checked, never a pickle.


EXPORT_HINT = (
    "torch.export.save(torch.export.export(model.eval(), (torch.cat([x, x]),), "
    'dynamic_shapes=({0: torch.export.Dim.AUTO},)), "model.pt2")'
)
"""How to export: of inputs x of any batch, for batches of any size. torch would fix a batch of 1, hence the `cat`."""

Members = dict[str, zipfile.ZipInfo]

_PAYLOAD = re.compile(r"(weight|tensor)_\d{1,9}")
# Bytes per element of the serialised dtype numbers (torch._export.serde.schema.ScalarType).
_ITEM_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 9: 4, 10: 8, 11: 16, 12: 1, 13: 2}
_EXPANDED = 2**24
BOOL = 12
# Exactly these: a subclass would bring its own code.
_TENSORS = (torch.Tensor, torch.nn.Parameter)


def raw_tensors(config: dict[str, Any], folder: str, members: Members) -> dict[str, Any]:
    """Copy the table of raw tensors, each checked against the bytes that it describes."""
    table = config.get("config")
    if not isinstance(table, dict):
        raise InputError(f"the table of {folder} in the archive is damaged: export the model again")
    clean: dict[str, Any] = {}
    expanded = 0
    for name, entry in table.items():
        dotted("a tensor's name", name)
        try:
            path, meta = entry["path_name"], entry["tensor_meta"]
            if entry["use_pickle"] or not _PAYLOAD.fullmatch(path):
                raise InputError(
                    f"{name!r} in the archive is a pickled object (a tensor subclass or a custom "
                    "object), which can run code: convert it to a plain tensor and export the "
                    "model again"
                )
            sizes, strides = ([int(s["as_int"]) for s in meta[key]] for key in ("sizes", "strides"))
            offset, dtype = int(meta["storage_offset"]["as_int"]), int(meta["dtype"])
            available = members[f"data/{folder}/{path}"].file_size // _ITEM_SIZES[dtype]
            elements = 1
            for size in sizes:
                elements *= size
            steps = zip(sizes, strides, strict=True)
            last = offset + sum((size - 1) * stride for size, stride in steps)
            inside = min([offset, *sizes, *strides], default=0) >= 0
            # A stride of 0 lets few bytes stand for a tensor that fills memory when copied.
            # Elements that the bytes do not have, of all tensors together.
            expanded += max(0, elements - available)
            if not inside or expanded > _EXPANDED or (elements and last >= available):
                raise InputError(
                    f"{name!r} in the archive claims shape {sizes} but has only {available} "
                    "values: the file is damaged"
                )
            clean[name] = {
                "path_name": path,
                "is_param": bool(entry["is_param"]),
                "use_pickle": False,
                "tensor_meta": {
                    "dtype": dtype,
                    "sizes": [{"as_int": size} for size in sizes],
                    "requires_grad": bool(meta["requires_grad"]),
                    "device": {"type": "cpu", "index": None},
                    "strides": [{"as_int": stride} for stride in strides],
                    "storage_offset": {"as_int": offset},
                    "layout": 7,
                },
            }
            if int(meta["layout"]) != 7:
                raise InputError(
                    f"{name!r} in the archive is not a dense tensor: make it one, and export again"
                )
        except InputError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"the archive's entry for {name!r} is incomplete or of a type that crossbar-sim "
                f"does not read ({type(error).__name__}: {str(error)[:60]}): export the model again"
            ) from error
    return clean


def without_pickle(data: bytes, folder: str) -> bytes:
    """Pass on the pickled table of an older torch: read without running code, then written again."""
    if not data:
        return b""
    try:
        values = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:
        raise InputError(
            f"the pickled {folder} in the archive need code to load, so they are refused: export "
            f"the model again with torch 2.9 or later, {EXPORT_HINT}"
        ) from error
    plain = isinstance(values, dict) and all(type(v) in _TENSORS and _is_plain(v) for v in values.values())
    if not plain or sum(map(_expanded, values.values())) > _EXPANDED:
        raise InputError(
            f"the pickled {folder} in the archive are not a table of dense tensors, so they are refused: export the "
            "model again"
        )
    buffer = io.BytesIO()
    torch.save({dotted("a tensor's name", name): value for name, value in values.items()}, buffer)
    return buffer.getvalue()


def _is_plain(value: torch.Tensor) -> bool:
    """Whether a tensor is dense and, if boolean, has only the bytes 0 and 1."""
    if value.layout != torch.strided or value.is_quantized or value.is_nested or value.device.type != "cpu":
        return False
    if value.dtype != torch.bool:
        return True
    # All of its memory: `as_strided` shows the rest.
    return not bool((torch.empty(0, dtype=torch.uint8).set_(value.untyped_storage()) > 1).any())


def _expanded(value: torch.Tensor) -> int:
    """Bytes of a tensor that its memory does not have, since several of its elements are one there."""
    return max(0, value.numel() * value.element_size() - value.untyped_storage().nbytes())


# torch.export archives, rebuilt from checked parts before torch may see them.
#
# `torch.export.load` runs code that a file brings: pickled sample inputs, weights and constants fall
# back to full unpickling, and the graph's text is evaluated in several places (`exported_graph`).
# Inspecting a file and then loading it would leave room between what the inspector and the loader
# read (zip members of the same name, for one). So the archive is taken apart and a new one is
# written in memory from what passed: raw tensor bytes, a graph copied through an allow-list, and
# empty sample inputs. torch loads that.


LOADING = threading.RLock()
"""torch's loader keeps what it reads in a global variable, and refuses a second thread meanwhile."""

# Ours are stored uncompressed; JSON deflates tenfold. A bomb has thousands.
_LARGEST_RATIO = 20
_SMALL = 64 * 2**20


def is_archive(names: list[str]) -> bool:
    """Say whether a zip file with these member names is meant as a torch.export archive."""
    return any(
        name.endswith(("/archive_format", "/models/model.json")) or name == "serialized_exported_program.json"
        for name in names
    )


def load_archive(content: bytes | io.BytesIO) -> tuple["ExportedProgram", dict[str, Any]]:
    """Load a torch.export archive from its bytes without running anything that it brings.

    A `BytesIO` is closed as soon as it is taken apart, which frees one copy of the weights.

    Returns:
        The program, and its graph as cleaned JSON (see `exported_graph`).

    Raises:
        InputError: something in the archive is outside the allow-list, or torch cannot load the
        rest.
    """
    import torch.export  # a fifth of a second, which other files need not wait for

    clean, program, groups = _rebuilt(content)
    if isinstance(content, io.BytesIO):
        content.close()
    try:
        with LOADING, _quiet():
            loaded = torch.export.load(clean)
            tie(loaded, groups)
            return loaded, program
    except Exception as error:
        # A damaged graph fails anywhere in torch's loader, in any way.
        raise InputError(
            f"torch {torch.__version__} cannot load this torch.export archive "
            f"({_first_line(error)}): export it again with this version, {EXPORT_HINT}"
        ) from error


def rebuild(content: bytes | io.BytesIO) -> tuple[io.BytesIO, dict[str, Any]]:
    """Check an archive and write a new one from its checked parts.

    Returns:
        The new archive, in memory, and its cleaned graph.

    Raises:
        InputError: see `load_archive`.
    """
    clean, program, _ = _rebuilt(content)
    return clean, program


_Rebuilt = tuple[io.BytesIO, dict[str, Any], list[list[str]]]


def _rebuilt(content: bytes | io.BytesIO) -> _Rebuilt:
    """`rebuild`, with the groups of tied weights."""
    try:
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        with zipfile.ZipFile(source) as archive:
            members = read_members(archive, source.getbuffer().nbytes)
            return _rebuild(archive, members)
    except InputError:
        raise
    except (
        zipfile.BadZipFile,
        RuntimeError,
        NotImplementedError,
        EOFError,
        OSError,
        ValueError,
    ) as error:
        raise InputError(
            f"the archive is damaged ({_first_line(error)}): copy it again from its source, or "
            "export it again"
        ) from error
    except Exception as error:
        # zlib.error and struct.error, from damaged headers.
        raise InputError(f"the archive is damaged ({_first_line(error)}): export it again") from error


def read_members(archive: zipfile.ZipFile, size: int) -> Members:
    """List the members of a zip file of `size` bytes without its top folder.

    Raises:
        InputError: a name occurs twice or points outside, or the contents are absurdly large.
    """
    infos = archive.infolist()
    total = sum(info.file_size for info in infos)
    if total > max(_SMALL, _LARGEST_RATIO * size):
        raise InputError(
            f"the archive of {size} bytes claims {total} bytes of content: it is damaged or made "
            "to fill memory"
        )
    members: Members = {}
    for info in infos:
        name = info.filename
        if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
            raise InputError(f"the archive has a member named {name[:80]!r}, outside of it, so it is refused")
        # torch 2.7 and older wrote no top folder.
        name = name.partition("/")[2] if "/" in name else name
        if name in members:
            raise InputError(
                f"the archive has two members named {name[:80]!r}, which readers tell apart "
                "differently, so it is refused"
            )
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(
                f"the archive's member {name[:80]!r} is packed by a method that torch does not use"
            )
        members[name] = info
    return members


def _rebuild(archive: zipfile.ZipFile, members: Members) -> _Rebuilt:
    for name in members:
        if name.startswith(("data/aotinductor/", "data/executorch/")):
            raise InputError(
                "the archive holds compiled code (AOTInductor or ExecuTorch), which would run as "
                f"it is: save the exported program instead, {EXPORT_HINT}"
            )
        if name.startswith("models/") and name != "models/model.json":
            raise InputError(
                f"the archive holds the program {name[:80]!r} besides or instead of "
                f"models/model.json: save one model per file, {EXPORT_HINT}"
            )
    if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
        raise InputError("the archive was written on a big-endian machine: export it again on this one")
    graph = _first(members, "models/model.json", "serialized_exported_program.json")
    program = clean_program(archive.read(graph))
    groups: list[list[str]] = []
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as clean:

        def write(name: str, data: bytes) -> None:
            clean.writestr(f"archive/{name}", data)

        write("archive_format", b"pt2")
        write("archive_version", b"0")
        write(".data/version", b"6\n")
        write("byteorder", b"little")
        # Present but empty: torch takes that as no sample inputs.
        write("data/sample_inputs/model.pt", b"")
        for folder, kind in (("weights", "state_dict"), ("constants", "constants")):
            config = f"data/{folder}/model_{folder}_config.json"
            if config in members:
                payloads = raw_tensors(parse_json(archive.read(members[config]), config), folder, members)
                truths = {
                    meta["path_name"] for meta in payloads.values() if meta["tensor_meta"]["dtype"] == BOOL
                }
                for path in {meta["path_name"] for meta in payloads.values()}:
                    data = archive.read(members[f"data/{folder}/{path}"])
                    if path in truths and data.translate(None, b"\0\1"):
                        raise InputError(
                            f"a tensor of truth values in the archive ({path}) has other bytes than 0 and 1, which "
                            "operators count for what they are: the file is damaged"
                        )
                    write(f"data/{folder}/{path}", data)
                write(config, json.dumps({"config": payloads}).encode())
                groups += tied(payloads)
            else:
                old = _first(members, f"data/{folder}/model.pt", f"serialized_{kind}.pt")
                write(f"data/{folder}/model.pt", without_pickle(archive.read(old), folder))
        untangle(program, groups)
        write("models/model.json", json.dumps(without_metadata(of_tensors(program))).encode())
    buffer.seek(0)
    return buffer, program, groups


def _first(members: Members, *names: str) -> zipfile.ZipInfo:
    for name in names:
        if name in members:
            return members[name]
    raise InputError(f"the archive has no {names[0]}: it is incomplete, or not from torch.export.save")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's loader from logging tracebacks; the one line of InputError replaces them."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
