"""Opening one dataset of an untrusted file: everything is looked at before a value is read."""

import math

import h5py
from h5py import h5d, h5l, h5o, h5t

from crossbar_sim.crossbar.checks import show
from crossbar_sim.errors import InputError
from crossbar_sim.store import guard
from crossbar_sim.store.chunks import check_filters

SIEMENS = {"S": 1.0, "mS": 1e-3, "uS": 1e-6, "µS": 1e-6, "μS": 1e-6, "nS": 1e-9}
"""The units that a file may be in. The micro sign and the Greek letter are two characters."""

CHUNK_LIMIT = 1 << 24
"""Bytes of the largest chunk: HDF5 takes a whole one into memory."""

# No deflate stream unpacks to more than 1032 times its size (zlib's technical notes).
_EXPANSION = 1032

_FLOATS = (h5t.IEEE_F32LE, h5t.IEEE_F32BE, h5t.IEEE_F64LE, h5t.IEEE_F64BE)
_BYTES = (h5t.STD_U8LE, h5t.STD_U8BE)
_INTEGERS = (h5t.STD_I32LE, h5t.STD_I32BE)
_KINDS = {h5o.TYPE_GROUP: "a group", h5o.TYPE_DATASET: "a dataset"}


def child(group: h5py.Group, name: str, kind: int) -> bool:
    """Whether the group has `name`, as an object of this file and of that kind.

    Raises:
        InputError: if it is a link to elsewhere, which a file from elsewhere must not make us follow, or
            another kind of object.
    """
    link = name.encode(errors="surrogateescape")
    if not group.id.links.exists(link):
        return False
    if group.id.links.get_info(link).type != h5l.TYPE_HARD:
        raise InputError(
            f"{show(name)} in {show(group.name)} is a soft or external link, which are not followed: "
            "copy what it points to into the file"
        )
    if h5o.get_info(group.id, link).type != kind:
        raise InputError(f"{show(name)} in {show(group.name)} is not {_KINDS[kind]}")
    return True


def open_conductances(group: h5py.Group, name: str) -> tuple[h5py.Dataset, float] | None:
    """A dataset of conductances and what one of its units is in S; None if there is none.

    Raises:
        InputError: saying what is wrong with it and how it should be.
    """
    dataset = _open(group, name, _FLOATS, "float32 or float64")
    if dataset is None:
        return None
    units = guard.text(dataset, "units")
    if units is None:
        raise InputError(f'has no units: set the attribute units of {name} to "S" or "uS"')
    if units not in SIEMENS:
        raise InputError(f"units {show(units)} of {name} are unknown; known: {', '.join(SIEMENS)}")
    _check_complete(dataset, name)
    return dataset, SIEMENS[units]


def open_faults(group: h5py.Group, name: str) -> h5py.Dataset | None:
    """The map of fault codes, None if there is none; refused like `open_conductances`."""
    return _open(group, name, _BYTES, "uint8")


def open_lines(group: h5py.Group, name: str) -> h5py.Dataset | None:
    """Numbers of word or bit lines, None if there are none; refused like `open_conductances`."""
    dataset = _open(group, name, _INTEGERS, "int32")
    if dataset is not None:
        _check_complete(dataset, name)
    return dataset


def _open(group: h5py.Group, name: str, types: tuple[h5t.TypeID, ...], words: str) -> h5py.Dataset | None:
    if not child(group, name, h5o.TYPE_DATASET):
        return None
    found = h5d.open(group.id, name.encode())
    layout = found.get_create_plist()
    # Asked before the shape: the shape of a virtual dataset may already open other files.
    if layout.get_layout() == h5d.VIRTUAL or layout.get_external_count():
        raise InputError(f"{name} lies in other files, which are not read: copy it into this one")
    if not any(found.get_type().equal(known) for known in types):
        raise InputError(f"{name} is not {words}: save it as {words}")
    if len(found.shape or ()) != 3:
        shape = "no shape" if found.shape is None else f"shape {found.shape}"
        raise InputError(f"{name} has {shape[:80]}: expected (planes, rows, columns)")
    dataset = h5py.Dataset(found)
    check_filters(dataset, name)
    if dataset.chunks and math.prod(dataset.chunks) * dataset.dtype.itemsize > CHUNK_LIMIT:
        raise InputError(
            f"{name} has chunks {dataset.chunks} of more than {CHUNK_LIMIT >> 20} MiB: save it with "
            "smaller ones"
        )
    return dataset


def _check_complete(dataset: h5py.Dataset, name: str) -> None:
    """Refuse what claims more than its bytes can hold, or was never written as a whole.

    HDF5 reads a chunk that is not there as a fill value, without a word.
    """
    claimed = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if claimed > _EXPANSION * stored or stored > dataset.file.id.get_filesize():
        raise InputError(
            f"{name} claims shape {dataset.shape} and has {stored} bytes: it was not "
            "written completely, or is damaged; export or copy it again"
        )
    if dataset.chunks is None:
        return
    seen = set()
    dataset.id.chunk_iter(lambda chunk: seen.add(chunk.chunk_offset))
    sizes = zip(dataset.shape, dataset.chunks, strict=True)
    if len(seen) != math.prod(-(-length // chunk) for length, chunk in sizes):
        raise InputError(
            f"{name} lacks some of its chunks or has odd ones: it was not written completely, or is "
            "damaged; export or copy it again"
        )
