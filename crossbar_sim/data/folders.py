"""Images in folders of their class: FOLDER/class/image, or FOLDER/train/class/image, test/, val/."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from crossbar_sim.data.arrays import scaled
from crossbar_sim.data.catalogue import Entry, entries
from crossbar_sim.data.dataset import TEST_SHARE, VALIDATION_SHARE, Split, Splits, stratified
from crossbar_sim.data.images import SUFFIXES, check_memory, header, opened, pixels
from crossbar_sim.errors import InputError
from crossbar_sim.rng import Key

PARTS = {
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
"""Folders that are parts of a data set and not classes, in lower case."""


@dataclass(frozen=True)
class _Picture:
    path: Path
    label: int
    name: str
    """class/file: what decides its split where there are no folders for parts."""


def load_folder(path: Path, key: Key, size: tuple[int, int] | None = None) -> Splits:
    """Images of the user's own, in folders that are called like their classes.

    Classes are numbered in the order of their names. If the folder holds train and test (val may be
    missing), they are the splits; if it holds nothing but test, there is nothing to train on; else of
    every class 25 % are test and 15 % validation (15 % of train, where val is missing), chosen by the
    images' names.

    Args:
        path: the folder.
        key: names the split where there are no folders for it.
        size: height and width to resize to (Pillow's bilinear); `None`: all have one size already.

    Returns:
        x (n, 1, h, w) if all images are grey, else (n, 3, h, w), in 0 .. 1: divided by 255, nothing
        subtracted; y. Transparency is dropped, orientation marks of cameras are not followed.

    Raises:
        InputError: if a file is not an image, sizes differ, or a split would be empty.
    """
    parts, classes, skipped = _listed(path)
    every = [picture for pictures in parts.values() for picture in pictures]
    sides, grey = _common(path, every, size)
    channels = 1 if grey else 3
    check_memory(path, 5 * channels * sides[0] * sides[1] * len(every))
    parts, how = _split(path, parts, key)
    made = {part: _decode(pictures, sides, grey, size) for part, pictures in parts.items()}
    notes = (
        "pixel values 0 .. 255 divided by 255, nothing subtracted",
        f"classes 0 .. {len(classes) - 1} are {_few(classes)}",
        *how,
        *(
            (f"resized to {sides[0]} x {sides[1]} (Pillow's bilinear, aspect ratio not kept)",)
            if size
            else ()
        ),
        *((f"{len(skipped)} files that are not images were skipped: {_few(skipped)}",) if skipped else ()),
    )
    name = path.resolve().name or "images"
    return Splits(name, made.get("train"), made.get("validation"), made["test"], len(classes), notes)


def _few(names: list[str]) -> str:
    more = len(names) - 6
    return ", ".join(repr(name[:40]) for name in names[:6]) + (f" and {more} more" if more > 0 else "")


def _listed(path: Path) -> tuple[dict[str, list[_Picture]], list[str], list[str]]:
    """The pictures of every part ("" where the folder has no parts), the classes, what was skipped."""
    folders = [entry for entry in entries(path) if entry.folder]
    named = [entry for entry in folders if entry.name.lower() in PARTS]
    if not folders:
        raise InputError(f"{path}: holds no folders; images are in one folder for each class")
    homes = {"": path} if not named else _homes(path, folders, named)
    first = homes.get("train") or next(iter(homes.values()))
    classes = [entry.name for entry in entries(first) if entry.folder]
    parts: dict[str, list[_Picture]] = {}
    skipped: list[str] = []
    for part, home in homes.items():
        parts[part] = []
        for entry in entries(home):
            if not entry.folder:
                skipped.append(entry.name)
                continue
            if entry.name not in classes:
                raise InputError(f"{entry.path}: is a class that {first} does not have")
            found, other = _pictures(entry, classes.index(entry.name))
            parts[part] += found
            skipped += other
        if not parts[part]:
            raise InputError(f"{home}: holds no folders; images are in one folder for each class")
    return parts, classes, skipped


def _homes(path: Path, folders: list[Entry], named: list[Entry]) -> dict[str, Path]:
    """The folders of the parts."""
    other = next((entry for entry in folders if entry not in named), None)
    if other is not None:
        raise InputError(
            f"{path}: holds {named[0].name} and {other.name}: give folders of parts or of classes"
        )
    homes: dict[str, Path] = {}
    for entry in named:
        part = PARTS[entry.name.lower()]
        if part in homes:
            raise InputError(f"{path}: holds {homes[part].name} and {entry.name}, both for {part}; keep one")
        homes[part] = entry.path
    if "test" not in homes or (homes.keys() == {"test", "validation"}):
        raise InputError(
            f"{path}: holds {' and '.join(entry.name for entry in named)}; train and test are needed, or test alone "
            "(validation is taken from train where there is none)"
        )
    return homes


def _pictures(entry: Entry, label: int) -> tuple[list[_Picture], list[str]]:
    """The pictures of a class folder, and what else is in it."""
    found: list[_Picture] = []
    skipped: list[str] = []
    for inner in entries(entry.path):
        if inner.folder:
            raise InputError(
                f"{inner.path}: is a folder in the folder of a class; images are directly in that"
            )
        if inner.path.suffix.lower() in SUFFIXES:
            found.append(_Picture(inner.path, label, f"{entry.name}/{inner.name}"))
        else:
            skipped.append(f"{entry.name}/{inner.name}")
    if not found:
        raise InputError(f"{entry.path}: holds no images ({', '.join(SUFFIXES)}); remove it or fill it")
    return found, skipped


def _common(
    path: Path, pictures: list[_Picture], size: tuple[int, int] | None
) -> tuple[tuple[int, int], bool]:
    """Height and width that all have or get, and whether all are grey; from their headers."""
    first, all_grey = None, True
    for picture in pictures:
        height, width, grey = header(picture.path)
        all_grey = all_grey and grey
        first = first or (height, width)
        if size is None and (height, width) != first:
            raise InputError(
                f"{picture.path}: has {height} x {width} pixels and {pictures[0].path} {first[0]} x {first[1]}; "
                "give a size that all are resized to (size=(32, 32) in Python)"
            )
    assert first is not None  # no class folder is empty
    return size or first, all_grey


def _split(
    path: Path, parts: dict[str, list[_Picture]], key: Key
) -> tuple[dict[str, list[_Picture]], tuple[str, ...]]:
    """The parts as train, validation and test, and what was done."""
    whole = "" in parts
    if not whole and ("validation" in parts or "train" not in parts):
        return parts, ()
    source = parts["" if whole else "train"]
    labels = np.array([picture.label for picture in source])
    chosen = stratified(
        labels, key.fold("folder", "split"), [p.name for p in source], TEST_SHARE if whole else 0.0
    )
    names = ("train", "validation", "test")
    made = {part: [source[i] for i in indices] for part, indices in zip(names, chosen, strict=True)}
    if not whole:
        made["test"] = parts["test"]
    short = next((part for part in names if not made[part]), None)
    if short is not None:
        raise InputError(f"{path}: holds too few images: {short} would be empty; 4 of a class are enough")
    percent = f"{VALIDATION_SHARE:.0%}".replace("%", " %")
    if whole:
        return made, (f"of every class 25 % are test and {percent} validation, chosen by the images' names",)
    return made, (f"validation is {percent} of every class of train, chosen by the images' names",)


def _decode(
    pictures: list[_Picture], sides: tuple[int, int], grey: bool, size: tuple[int, int] | None
) -> Split:
    """The pictures as tensors."""
    x = np.empty((len(pictures), 1 if grey else 3, *sides), dtype=np.uint8)
    for i, picture in enumerate(pictures):
        with opened(picture.path) as image:
            x[i] = pixels(image, grey, size)
    y = torch.tensor([picture.label for picture in pictures], dtype=torch.int64)
    return Split(scaled(x), y)
