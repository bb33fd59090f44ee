"""A chip file in words, for `crossbar-sim info`."""

import os
from pathlib import Path

import h5py
import numpy as np

from crossbar_sim.crossbar.checks import units_caution
from crossbar_sim.crossbar.config import to_dict
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.errors import InputError
from crossbar_sim.store import guard
from crossbar_sim.store.chip_file import read_chip
from crossbar_sim.store.chunks import read
from crossbar_sim.store.contents import Opened, open_array
from crossbar_sim.store.layout import FAULTS
from crossbar_sim.store.values import blocks, conductances

_SAMPLE = 1 << 20


def describe_chip(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """What a chip file holds, as (key, value) lines; reads all of its drifted planes.

    Conductances are in µS. The median of an array of more than a million cells is that of a sample.

    Raises:
        InputError: as `read_chip`, and if a plane is damaged or holds what is no conductance.
    """
    chip = read_chip(path)
    version = chip.format_version
    lines = [
        ("format", "a chip file of a lab's own" if version is None else f"chip file, version {version}"),
        *_said("hardware", chip.hardware and hardware_in_words(chip.hardware)),
        *_said("seed", chip.seed),
        *_said("chip", chip.chip),
        *_said("model SHA-256", chip.model_sha256),
        *_said("written by", chip.version and f"crossbar-sim {chip.version}"),
        ("arrays", str(len(chip.arrays))),
    ]
    with guard.reading(Path(path)) as file:
        for array in chip.arrays:
            opened = open_array(file, array.groups)
            lines.append((array.name, _array_in_words(opened)))
            caution = units_caution(
                array.largest(opened.drifted, opened.unit), "the largest conductance, {},"
            )
            lines += _said("warning", caution)
    return [(_plain(key), _plain(value)) for key, value in lines]


def hardware_in_words(hardware: Hardware) -> str:
    """One line: the mapping with its window in µS, then every effect that is not ideal."""
    mapping = hardware.mapping
    words = [f"{mapping.kind}, {mapping.g_min * 1e6:.4g} to {mapping.g_max * 1e6:.4g} µS"]
    words += [f"{mapping.levels} levels"] if mapping.levels is not None else []
    words += [f"{mapping.copies} copies"] if mapping.copies > 1 else []
    words += ["a scale per column"] if mapping.scale_per == "column" else []
    words += [f"clipped at percentile {mapping.clip:g}"] if mapping.clip is not None else []
    words += [f"{mapping.cell_bits} bits a cell"] if mapping.cell_bits is not None else []
    words += ["two's complement"] if getattr(mapping, "encoding", None) is not None else []
    for effect in ("programming", "stuck", "drift", "wires", "dac", "read_noise", "adc"):
        part = to_dict(hardware).get(effect)
        if part is not None:
            values = ", ".join(f"{key} {value}" for key, value in part.items() if key != "kind")
            per = f" per {hardware.drift_per}" if effect == "drift" else ""
            words.append(f"{effect} {part['kind']} ({values}){per}")
    words += [f"{what} {getattr(hardware, what)}" for what in ("bias", "normalisation", "other")]
    return "; ".join(words)


def _array_in_words(opened: Opened) -> str:
    planes, rows, cols = opened.array.shape
    words = f"{planes} x {rows} x {cols}"
    spread = _spread(opened)
    if spread is not None:
        low, middle, high = (f"{1e6 * g:.4g}" for g in spread)
        words += f", {low} / {middle} / {high} µS (min / median / max)"
    if opened.faults is None:
        return words
    off, on = _faults(opened.faults)
    return f"{words}, {off + on} stuck cells" + (f" ({off} off, {on} on)" if off + on else "")


def _spread(opened: Opened) -> tuple[float, float, float] | None:
    """Least, median and greatest drifted conductance in S; None without cells."""
    dataset = opened.drifted
    step = max(1, dataset.size // _SAMPLE)
    low, high, sample = np.inf, -np.inf, []
    for rows, cols in blocks(dataset, dataset.shape[2]):
        g = conductances(dataset, opened.unit, rows, cols)
        low, high = min(low, float(g.min())), max(high, float(g.max()))
        sample.append(g.reshape(-1)[::step].copy())
    return (low, float(np.median(np.concatenate(sample))), high) if sample else None


def _faults(dataset: h5py.Dataset) -> tuple[int, int]:
    """Cells stuck off and stuck on."""
    if not dataset.id.get_storage_size() and not dataset.fillvalue:
        return 0, 0  # never written: no faults
    counts = np.zeros(256, np.int64)
    for rows, cols in blocks(dataset, dataset.shape[2]):
        counts += np.bincount(read(dataset, rows, cols).reshape(-1), minlength=256)
    if counts[3:].any():
        raise InputError(
            f"{FAULTS} holds codes above 2: 0 is a healthy cell, 1 one stuck off, 2 one stuck on"
        )
    return int(counts[1]), int(counts[2])


def _said(key: str, value: object) -> list[tuple[str, str]]:
    return [] if value is None else [(key, str(value))]


def _plain(text: str) -> str:
    """On one line and without control characters, which a hostile file could send to a terminal."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in text)
    return clean if len(clean) <= 1000 else f"{clean[:997]}..."
