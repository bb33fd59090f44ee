"""The weights of a torch.export archive: raw bytes whose description is checked, never a pickle."""

import io
import re
import zipfile
from typing import Any

import torch

from crossbar_sim.errors import InputError
from crossbar_sim.nn.archive_graph import dotted

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
    """Pass on the pickled table of an older torch: read without running code, then written anew."""
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
    """Whether a tensor is dense, and holds no other bytes than 0 and 1 for truth values."""
    if value.layout != torch.strided or value.is_quantized or value.is_nested or value.device.type != "cpu":
        return False
    if value.dtype != torch.bool:
        return True
    # All of its memory: `as_strided` shows the rest.
    return not bool((torch.empty(0, dtype=torch.uint8).set_(value.untyped_storage()) > 1).any())


def _expanded(value: torch.Tensor) -> int:
    """Bytes of a tensor that its memory does not have, since several of its elements are one there."""
    return max(0, value.numel() * value.element_size() - value.untyped_storage().nbytes())
