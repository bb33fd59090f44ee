"""The Penn-Fudan pedestrians in their official folders: PNGImages/NAME.png and PedMasks/NAME_mask.png.

Wang, Shi, Song and Shen, "Object detection combining recognition and segmentation", ACCV 2007. A mask
has the value 0 where there is no pedestrian and k on the k-th one. The text files in Annotation/ are not
read: boxes are those of the masks.
"""

import re
from pathlib import Path

import numpy as np
import torch

from crossbar_sim.data.arrays import scaled
from crossbar_sim.data.detection import DetectionSplit, DetectionSplits
from crossbar_sim.data.files import check_memory
from crossbar_sim.data.images import header, opened, pixels
from crossbar_sim.data.places import entries, find_pennfudan
from crossbar_sim.data.splitting import stratified
from crossbar_sim.errors import InputError
from crossbar_sim.rng import Key

OFFICIAL = 170
GENERATED = "generated-by-crossbar-sim.txt"
"""A file with this name in the folder says that the images are drawings."""


def load_pennfudan(data_dir: Path | None = None, key: Key = Key(0)) -> DetectionSplits:  # noqa: B008
    """170 street images with the masks of their pedestrians.

    Args:
        data_dir: see `places.find_pennfudan`.
        key: names the split: there is no official one. Of the images of each of the two places (names
            that begin alike) 25 % are test and 15 % validation, chosen by their names.

    Raises:
        InputError: if a file is missing or damaged, or an image and its mask do not fit.
    """
    folder = find_pennfudan(data_dir)
    images, masks = folder / "PNGImages", folder / "PedMasks"
    names = [entry.path.stem for entry in entries(images) if entry.path.suffix.lower() == ".png"]
    _check_pairs(images, masks, names)
    needed = 0
    for name in names:
        height, width, _ = header(images / f"{name}.png")
        needed += 16 * height * width
        check_memory(images, needed)
    places = np.array([re.split(r"\d", name, maxsplit=1)[0] for name in names])
    chosen = stratified(places, key.fold("pennfudan", "split"), names)
    if any(len(part) == 0 for part in chosen):
        raise InputError(f"{images}: holds {len(names)} images, too few for three splits; 4 are enough")
    train, validation, test = (_read(folder, [names[i] for i in part]) for part in chosen)
    notes = (
        "pixel values 0 .. 255 divided by 255, nothing subtracted; images keep their sizes",
        "boxes are the smallest around the masks; there is no official split: 25 % are test, 15 % validation",
        *((f"{len(names)} of the official {OFFICIAL} images",) if len(names) != OFFICIAL else ()),
        *(
            ("these are drawings of make_pedestrians for tests and quick runs, no photographs",)
            if (folder / GENERATED).exists()
            else ()
        ),
    )
    return DetectionSplits("pennfudan", train, validation, test, notes)


def _check_pairs(images: Path, masks: Path, names: list[str]) -> None:
    """Every image has a mask, and the other way round.

    Raises:
        InputError: naming the first that has none.
    """
    if not names:
        raise InputError(f"{images}: holds no .png images; fetch the set again")
    stems = {entry.path.stem for entry in entries(masks) if entry.path.suffix.lower() == ".png"}
    for name in names:
        if f"{name}_mask" not in stems:
            raise InputError(f"{images / name}.png: has no mask {masks / name}_mask.png; fetch the set again")
    more = sorted(stems - {f"{name}_mask" for name in names})
    if more:
        raise InputError(f"{masks / more[0]}.png: is the mask of no image in {images}; fetch the set again")


def _read(folder: Path, names: list[str]) -> DetectionSplit:
    """The images of these names with their boxes and masks."""
    made = [_example(folder, name) for name in names]
    images, boxes, masks = zip(*made, strict=True)
    return DetectionSplit(images, boxes, masks)


def _example(folder: Path, name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Image (3, h, w), boxes (k, 4) and masks (k, h, w)."""
    with opened(folder / "PNGImages" / f"{name}.png") as image:
        x = pixels(image, grey=False)
    mask_path = folder / "PedMasks" / f"{name}_mask.png"
    with opened(mask_path) as image:
        if image.mode not in ("L", "P"):
            raise InputError(
                f"{mask_path}: has pixels of kind {image.mode!r}; a mask has one number for each"
            )
        numbers = np.asarray(image, dtype=np.uint8)
    if numbers.shape != x.shape[1:]:
        raise InputError(
            f"{mask_path}: has {numbers.shape} pixels and its image {x.shape[1:]}; fetch both again"
        )
    found = np.unique(numbers)
    found = found[found > 0]
    if len(found) == 0:
        raise InputError(f"{mask_path}: marks no pedestrian; every image of the set has one")
    check_memory(mask_path, len(found) * numbers.size)
    masks = numbers == found[:, None, None]
    boxes = torch.tensor([_box(mask) for mask in masks], dtype=torch.float32)
    return scaled(x), boxes, torch.from_numpy(masks)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The smallest box around a mask: left, top, right, bottom, the last two excluded."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
