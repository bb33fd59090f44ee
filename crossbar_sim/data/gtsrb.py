"""The German Traffic Sign Recognition Benchmark in its official folders, with their CSV tables.

Stallkamp, Schlipsing, Salmen and Igel, "Man vs. computer: Benchmarking machine learning algorithms for
traffic sign recognition", Neural Networks 32, 2012. A *track* is one physical sign, passed by once: up to
30 frames that look alike, called TTTTT_FFFFF.ppm.
"""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from crossbar_sim.data.arrays import scaled
from crossbar_sim.data.catalogue import entries, find_gtsrb
from crossbar_sim.data.dataset import Split, Splits, by_group
from crossbar_sim.data.images import check_file, check_memory, opened, pixels, resize_sampled
from crossbar_sim.errors import InputError
from crossbar_sim.files import reason
from crossbar_sim.rng import Key

# GTSRB's tables: a CSV file with a line for each image, `;` between the columns.


COLUMNS = ("Filename", "Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId")
_LARGEST = 16 * 2**20
"""The largest official table has half a megabyte."""


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Args:
        name: the image's file name, a plain one.
        width, height: of the image, in pixels.
        roi: left, top, right and bottom of the sign in pixels, the last two excluded (its publishers do not
            say; taken so, the margins around a sign are the same on both sides).
        label: its class.
    """

    name: str
    width: int
    height: int
    roi: tuple[int, int, int, int]
    label: int


def read_table(path: Path, classes: int) -> list[Row]:
    """Read a table of GTSRB, in its order.

    Args:
        path: a `GT-*.csv`.
        classes: how many there are.

    Raises:
        InputError: if a column is missing, a value impossible, or a name given twice.
    """
    if check_file(path) > _LARGEST:
        raise InputError(
            f"{path}: has more than {_LARGEST} bytes; the official tables have fewer than a million"
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=";", strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table ({reason(error)}); fetch it again") from None
    head = [name.strip() for name in lines[0]] if lines else []
    missing = [name for name in COLUMNS if name not in head]
    if missing:
        raise InputError(f"{path}: {_why_missing(head, missing)}")
    where = [head.index(name) for name in COLUMNS]
    rows = [_row(path, i, cells, where, classes) for i, cells in enumerate(lines[1:], 2) if cells]
    names: set[str] = set()
    for row in rows:
        if row.name in names:
            raise InputError(f"{path}: lists {row.name} twice; fetch it again")
        names.add(row.name)
    if not rows:
        raise InputError(f"{path}: lists no image; fetch it again")
    return rows


def _why_missing(head: list[str], missing: list[str]) -> str:
    found = ";".join(head)[:80]
    if len(head) == 1 and ("," in found or "\t" in found):
        return f"begins with {found!r}: its columns must be separated by ; and not by another sign"
    if missing == ["ClassId"]:
        return "has no column ClassId; the table with classes is in GTSRB_Final_Test_GT.zip"
    return f"has no column {', '.join(missing)}; it begins with {found!r}"


def _row(path: Path, line: int, cells: list[str], where: list[int], classes: int) -> Row:
    """One line as a `Row`, its values checked against each other."""
    if len(cells) <= max(where):
        raise InputError(f"{path}: line {line} has {len(cells)} columns of {max(where) + 1}; fetch it again")
    name, *texts = (cells[i].strip() for i in where)
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise InputError(f"{path}: line {line} names {name[:60]!r}, which is not a plain file name")
    try:
        # At most nine digits: int() of a longer text could take long.
        width, height, left, top, right, bottom, label = (int(text[:10]) for text in texts)
    except ValueError:
        raise InputError(
            f"{path}: line {line} has {';'.join(texts)[:60]!r}, which are not integers"
        ) from None
    if not 0 <= label < classes:
        raise InputError(f"{path}: line {line} has class {label}; classes are 0 .. {classes - 1}")
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise InputError(
            f"{path}: line {line} has a Roi of columns {left} .. {right} and rows {top} .. {bottom} in an image "
            f"of {width} x {height}; fetch it again"
        )
    return Row(name, width, height, (left, top, right, bottom), label)


CLASSES = 43
OFFICIAL = {"train": 39_209, "test": 12_630}
_FRAME = re.compile(r"(\d{5})_\d{5}\.ppm")


@dataclass(frozen=True)
class _Sign:
    """An image file, what it shows, and what its table says of it (None: there is no table)."""

    path: Path
    label: int
    row: Row | None


def load_gtsrb(
    data_dir: Path | None, key: Key, size: tuple[int, int] = (32, 32), crop: bool = False
) -> Splits:
    """GTSRB: traffic signs of 43 classes, all resized alike.

    Args:
        data_dir: see `places.find_gtsrb`.
        key: names the validation split: whole tracks of every class, 15 % of them.
        size: height and width of an example.
        crop: cut each sign out by its Roi before resizing. Default: the whole image, which has a
            margin of about a tenth around the sign.

    Returns:
        x (n, 3, height, width) in 0 .. 1: resized like OpenCV's bilinear (four neighbours, aspect ratio
        not kept), divided by 255, nothing subtracted; y in 0 .. 42. The test split is the official one,
        or what is there of it.

    Raises:
        InputError: if a file is missing, damaged or contradicts its table; the sentence names it.
    """
    places = find_gtsrb(data_dir)
    if places.resized and (crop or size != (32, 32)):
        raise InputError(
            f"{places.test}: holds copies resized to 32 x 32, from which nothing else can be made: leave crop "
            "and size out, or get the official test images (crossbar-sim data fetch gtsrb)"
        )
    train = _training_signs(places.train)
    test = [_Sign(places.test / row.name, row.label, row) for row in read_table(places.table, CLASSES)]
    _check_listed(places.test, places.table, [sign.path.name for sign in test])
    check_memory(places.train, 5 * 3 * size[0] * size[1] * (len(train) + len(test)))
    x, y = _read(train, size, crop, sizes_known=True)
    train_indices, validation_indices = by_group(
        y, [_track(sign.path) for sign in train], key.fold("gtsrb", "tracks")
    )
    if len(validation_indices) == 0:
        raise InputError(
            f"{places.train}: no class has two tracks, of which one would be the validation split"
        )
    inputs, targets = _tensors(x, y)
    tested = Split(*_tensors(*_read(test, size, crop, sizes_known=not places.resized)))
    tracks = [(sign.label, _track(sign.path)) for sign in train]
    sides = f"{size[0]} x {size[1]}"
    notes = (
        f"{'sign cut out by its Roi' if crop else 'whole image'} resized to {sides} like OpenCV's bilinear, "
        "aspect ratio not kept; pixel values 0 .. 255 divided by 255, nothing subtracted",
        f"validation is {len({tracks[i] for i in validation_indices.tolist()})} whole tracks of {len({*tracks})}, "
        f"15 % of each class's: {len(validation_indices)} images",
        *_subset(len(train), len(test)),
        *(("test images are copies that their source had resized to 32 x 32",) if places.resized else ()),
    )
    train_split, validation = (
        Split(inputs[part], targets[part]) for part in (train_indices, validation_indices)
    )
    return Splits("gtsrb", train_split, validation, tested, CLASSES, notes)


def _subset(train: int, test: int) -> tuple[str, ...]:
    """What to say where not all of the official images are there."""
    counts = {"train": train, "test": test}
    return tuple(
        f"{part}: {count} of the official {OFFICIAL[part]} images"
        for part, count in counts.items()
        if count != OFFICIAL[part]
    )


def _training_signs(folder: Path) -> list[_Sign]:
    """Every image of the class folders, in the order of classes and names."""
    signs: list[_Sign] = []
    for entry in entries(folder):
        if not entry.folder:
            continue
        if not re.fullmatch(r"\d{5}", entry.name) or int(entry.name) >= CLASSES:
            raise InputError(
                f"{entry.path}: is not a class of GTSRB; class folders are 00000 .. {CLASSES - 1:05} "
                "(own classes: give the folder itself as data)"
            )
        signs += _class_signs(entry.path, int(entry.name))
    if not signs:
        raise InputError(f"{folder}: holds no class folders 00000 .. {CLASSES - 1:05} with images")
    return signs


def _class_signs(folder: Path, label: int) -> list[_Sign]:
    """The images of one class folder, as its table lists them or, without a table, all that are there."""
    table = folder / f"GT-{folder.name}.csv"
    there = [entry.name for entry in entries(folder) if entry.name.endswith(".ppm")]
    odd = next((name for name in there if not _FRAME.fullmatch(name)), None)
    if odd is not None:
        raise InputError(f"{folder / odd}: is not called TTTTT_FFFFF.ppm, so its track is not known")
    if not table.exists():
        return [_Sign(folder / name, label, None) for name in there]
    rows = sorted(read_table(table, CLASSES), key=lambda row: row.name)
    wrong = next((row for row in rows if row.label != label), None)
    if wrong is not None:
        raise InputError(
            f"{table}: gives {wrong.name} the class {wrong.label}, and the folder is of class {label}"
        )
    _check_listed(folder, table, [row.name for row in rows], there)
    return [_Sign(folder / row.name, label, row) for row in rows]


def _check_listed(
    folder: Path, table: Path, listed: Sequence[str], there: Sequence[str] | None = None
) -> None:
    """A table and a folder hold the same images.

    Raises:
        InputError: naming the first that only one of them has.
    """
    if there is None:
        there = [entry.name for entry in entries(folder) if entry.name.endswith(".ppm")]
    missing, more = sorted({*listed} - {*there}), sorted({*there} - {*listed})
    if missing:
        raise InputError(
            f"{table}: lists {len(missing)} images that are not in {folder}, such as {missing[0]}"
        )
    if more:
        raise InputError(
            f"{folder}: holds {len(more)} images that {table.name} does not list, such as {more[0]}"
        )


def _track(path: Path) -> str:
    return path.name.partition("_")[0]


def _read(
    signs: list[_Sign], size: tuple[int, int], crop: bool, sizes_known: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Decode and resize: (n, height, width, 3) uint8 and (n,) labels.

    Args:
        signs: at least one.
        size: height and width.
        crop: to the Roi.
        sizes_known: whether the tables give the sizes of these very files.
    """
    x = np.empty((len(signs), *size, 3), dtype=np.uint8)
    for i, sign in enumerate(signs):
        with opened(sign.path) as image:
            row = sign.row
            if row is not None and sizes_known and (row.width, row.height) != image.size:
                raise InputError(
                    f"{sign.path}: has {image.width} x {image.height} pixels and its table says "
                    f"{row.width} x {row.height}; fetch both again"
                )
            if not sizes_known and (image.height, image.width) != size:
                raise InputError(f"{sign.path}: has {image.width} x {image.height} pixels and not 32 x 32")
            array = pixels(image, grey=False).transpose(1, 2, 0)
        if crop:
            if row is None:
                raise InputError(f"{sign.path}: has no table that gives its Roi; leave crop out")
            left, top, right, bottom = row.roi
            array = array[top:bottom, left:right]
        x[i] = resize_sampled(array, size)
    return x, np.array([sign.label for sign in signs], dtype=np.int64)


def _tensors(x: np.ndarray, y: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, 3, h, w) float32 in 0 .. 1 and (n,) int64."""
    return scaled(x.transpose(0, 3, 1, 2)), torch.from_numpy(y)
