"""The Penn-Fudan pedestrians in their official folders: PNGImages/NAME.png and PedMasks/NAME_mask.png.

Wang, Shi, Song and Shen, "Object detection combining recognition and segmentation", ACCV 2007. A mask
has the value 0 where there is no pedestrian and k on the k-th one. The text files in Annotation/ are not
read: boxes are those of the masks.
"""

import functools
import os
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from crossbar_sim.data.arrays import scaled
from crossbar_sim.data.catalogue import PENNFUDAN_FOLDER, entries, find_pennfudan
from crossbar_sim.data.dataset import stratified
from crossbar_sim.data.detection import DetectionSplit, DetectionSplits
from crossbar_sim.data.images import check_memory, header, opened, pixels
from crossbar_sim.errors import InputError
from crossbar_sim.files import replacing, write_text
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


# Drawings of people in the layout of Penn-Fudan, for tests and quick runs where the set is not at hand.
#
# They stand before parts of the two photographs that scikit-learn brings (china.jpg and flower.jpg, Creative Commons
# Attribution 2.0, of danielbuechele and vultilion on Flickr).


MOST = 10_000


def make_pedestrians(
    folder: str | os.PathLike[str],
    n: int = 40,
    key: Key = Key(0),  # noqa: B008
    height: int = 160,
) -> Path:
    """Write `folder`/PennFudanPed: n drawings of one to three people-like shapes before photographs, with masks.

    They are not photographs: `load_pennfudan` says so in its notes. The same arguments give the same
    images, up to how a version of Pillow draws the edge of a shape.

    Args:
        folder: where data sets are; it must exist.
        n: how many images.
        key: names them.
        height: of the smallest image in pixels; widths and heights vary by half.

    Returns:
        The path of the new folder.

    Raises:
        InputError: if it exists already or cannot be written.
    """
    if not 1 <= n <= MOST or not 32 <= height <= 4096:
        raise InputError(f"n={n}, height={height}: 1 to {MOST} images of 32 to 4096 pixels are drawn")
    root = Path(folder) / PENNFUDAN_FOLDER
    try:
        for name in ("PNGImages", "PedMasks", "Annotation"):
            (root / name).mkdir(parents=True, exist_ok=False)
    except FileExistsError:
        raise InputError(f"{root}: exists already; remove it or name another folder") from None
    except OSError as error:
        raise InputError(f"cannot write {root}: {error.strerror or error}") from None
    write_text(root / GENERATED, "Drawn by crossbar_sim.data.make_pedestrians; no photographs.\n")
    for i in range(n):
        name = f"{'FudanPed' if i % 2 else 'PennPed'}{i:05}"
        image, mask = _scene(key.fold("pedestrian", str(i)), height)
        with replacing(root / "PNGImages" / f"{name}.png") as path:
            image.save(path, format="PNG")
        with replacing(root / "PedMasks" / f"{name}_mask.png") as path:
            mask.save(path, format="PNG")
        count = int(np.asarray(mask).max())
        text = f'Image filename : "{name}.png"\nImage size (X x Y x C) : {image.width} x {image.height} x 3\n'
        write_text(root / "Annotation" / f"{name}.txt", text + f"Objects with ground truth : {count}\n")
    return root


def _uniform(key: Key, name: str, low: float, high: float) -> float:
    """A number of the stream in low .. high."""
    return low + (high - low) * key.fold(name).integer() / 2**63


def _scene(key: Key, smallest: int) -> tuple[Image.Image, Image.Image]:
    """An image and its mask: part of a photograph and a wall behind people who stand apart."""
    height = int(_uniform(key, "height", smallest, 1.5 * smallest))
    width = int(_uniform(key, "width", smallest, 1.5 * smallest))
    image = _background(key.fold("background"), height, width)
    mask = Image.new("L", (width, height), 0)
    wall = [_uniform(key, "wall", 0, width * 0.6), height * 0.1]
    ImageDraw.Draw(image).rectangle((*wall, wall[0] + width * 0.3, height * 0.8), fill=_colour(key, "wall"))
    people = 1 + key.fold("people").integer() % 3
    for k in range(people):
        centre = width * (k + 0.5) / people + _uniform(key, f"x{k}", -0.05, 0.05) * width
        tall = height * _uniform(key, f"tall{k}", 0.55, 0.8)
        _person(
            image, mask, key.fold(f"person{k}"), centre, height * 0.95, min(tall, 2.6 * width / people), k + 1
        )
    return image, mask


@functools.cache
def _photographs() -> tuple[Image.Image, ...]:
    from sklearn.datasets import load_sample_image

    return tuple(Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg"))


def _background(key: Key, height: int, width: int) -> Image.Image:
    """A part of a photograph, somewhere in it and between half of it and all in size; one in two mirrored."""
    photographs = _photographs()
    photograph = photographs[key.fold("photograph").integer() % len(photographs)]
    scale = _uniform(key, "scale", 0.5, 1.0) * min(photograph.width / width, photograph.height / height)
    left = _uniform(key, "left", 0, photograph.width - scale * width)
    top = _uniform(key, "top", 0, photograph.height - scale * height)
    box = (left, top, left + scale * width, top + scale * height)
    part = photograph.resize((width, height), Image.Resampling.BILINEAR, box)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if key.fold("mirror").integer() % 2 else part


def _colour(key: Key, name: str) -> tuple[int, int, int]:
    red, green, blue = key.fold(name, "colour").digest()[:3]
    return red, green, blue


def _person(
    image: Image.Image, mask: Image.Image, key: Key, x: float, feet: float, tall: float, number: int
) -> None:
    """Draw head, trunk, arms and legs at `x`, `tall` pixels above `feet`, and into the mask as `number`."""
    on_image, on_mask = ImageDraw.Draw(image), ImageDraw.Draw(mask)
    head, step = tall * 0.08, tall * _uniform(key, "step", 0.04, 0.12)
    shoulders, hips = feet - tall * 0.82, feet - tall * 0.45
    wide = tall * 0.11
    limbs = [
        ((x - wide * 0.4, hips, x - step, feet), "legs"), ((x + wide * 0.4, hips, x + step, feet), "legs"),
        ((x - wide, shoulders, x - wide - step / 2, hips), "coat"),
        ((x + wide, shoulders, x + wide + step / 2, hips), "coat"),
    ]  # fmt: skip
    for line, part in limbs:
        on_image.line(line, fill=_colour(key, part), width=max(2, int(tall * 0.05)))
        on_mask.line(line, fill=number, width=max(2, int(tall * 0.05)))
    trunk = [(x - wide, shoulders), (x + wide, shoulders), (x + wide * 0.8, hips), (x - wide * 0.8, hips)]
    ball = (x - head, shoulders - 2.1 * head, x + head, shoulders)
    on_image.polygon(trunk, fill=_colour(key, "coat"))
    on_mask.polygon(trunk, fill=number)
    on_image.ellipse(ball, fill=_colour(key, "face"))
    on_mask.ellipse(ball, fill=number)
