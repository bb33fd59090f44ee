"""Data for detection: images of various sizes, and the boxes and masks of what is to be found in them."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch

from crossbar_sim.data.dataset import Split, Splits, add_tensor
from crossbar_sim.data.inputs import one_tensor
from crossbar_sim.errors import InputError

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True, eq=False)
class DetectionSplit:
    """Images and their objects, all of one class.

    Args:
        images: each (3, h, w) float32 in 0 .. 1, with its own h and w; at least one image.
        boxes: for each image (k, 4) float32: left, top, right, bottom in pixels, the last two excluded.
        masks: for each image (k, h, w) bool: the pixels of each object.

    Raises:
        InputError: if counts, shapes, dtypes or values are others.
    """

    images: Tensors
    boxes: Tensors
    masks: Tensors

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.boxes) == len(self.masks) or not self.images:
            raise InputError(
                f"{len(self.images)} images, {len(self.boxes)} times boxes and {len(self.masks)} times masks: "
                "one of each for every image, and at least one image"
            )
        for i, (image, boxes, masks) in enumerate(zip(self.images, self.boxes, self.masks, strict=True)):
            problem = _problem(image, boxes, masks)
            if problem:
                raise InputError(f"image {i}: {problem}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def objects(self) -> int:
        """How many objects there are in all images."""
        return sum(len(boxes) for boxes in self.boxes)


def _problem(image: torch.Tensor, boxes: torch.Tensor, masks: torch.Tensor) -> str | None:
    """What is wrong with an image and its objects, or None."""
    if image.dtype != torch.float32 or image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
        return f"has shape {tuple(image.shape)} and {image.dtype}; images are (3, h, w) float32"
    low, high = torch.aminmax(image)
    if not (low >= 0 and high <= 1):
        return f"has values {float(low):g} .. {float(high):g}; they lie in 0 .. 1"
    _, height, width = image.shape
    if boxes.dtype != torch.float32 or boxes.ndim != 2 or boxes.shape[1] != 4:
        return f"has boxes of shape {tuple(boxes.shape)} and {boxes.dtype}; they are (k, 4) float32"
    if masks.dtype != torch.bool or masks.shape != (len(boxes), height, width):
        return f"has masks of shape {tuple(masks.shape)} and {masks.dtype}; {(len(boxes), height, width)} bool fit"
    left, top, right, bottom = boxes.unbind(1)
    inside = (
        (left >= 0) & (left < right) & (right <= width) & (top >= 0) & (top < bottom) & (bottom <= height)
    )
    if not bool(inside.all()):
        return f"has a box that is empty or leaves the {width} x {height} pixels"
    return None


@dataclass(frozen=True, eq=False)
class DetectionDevelopment:
    """What training and selection may see. There is no test split in it."""

    train: DetectionSplit
    validation: DetectionSplit


@dataclass(frozen=True, eq=False)
class DetectionSplits:
    """A detection data set as the final evaluation sees it.

    Args:
        name: what reports call it.
        train, validation, test: the splits.
        notes: what was done to the raw files, as sentences for the report.
    """

    name: str
    train: DetectionSplit
    validation: DetectionSplit
    test: DetectionSplit
    notes: tuple[str, ...] = ()

    @property
    def development(self) -> DetectionDevelopment:
        """The train and validation splits, for a fit or a search."""
        return DetectionDevelopment(self.train, self.validation)

    def on_canvas(self) -> Splits:
        """The same as tensors, every image at the top left of a canvas as large as the largest height and width.

        Nothing is resized; the rest of the canvas is black.

        Raises:
            InputError: as `scenes`.
        """
        parts = {part: getattr(self, part) for part in ("train", "validation", "test")}
        shapes = [image.shape[1:] for split in parts.values() for image in split.images]
        height, width = (max(shape[i] for shape in shapes) for i in (0, 1))
        made = {part: scenes(split, height, width) for part, split in parts.items()}
        note = (
            f"images stand at the top left of a black canvas of {width} x {height} pixels, the largest sides"
        )
        return Splits(self.name, **made, classes=None, notes=(*self.notes, note))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the dtype, shape and little-endian bytes of every tensor."""
        state = hashlib.sha256()
        for part in ("train", "validation", "test"):
            split: DetectionSplit = getattr(self, part)
            for i, tensors in enumerate(zip(split.images, split.boxes, split.masks, strict=True)):
                for field, tensor in zip(("image", "boxes", "masks"), tensors, strict=True):
                    dtype = str(tensor.dtype).removeprefix("torch.")
                    add_tensor(state, f"{part}.{i}.{field} {dtype}", tensor)
        return state.hexdigest()


MOST_OBJECTS = 255
"""Of one image: their numbers are bytes."""


@dataclass(frozen=True, eq=False)
class Scenes(Split):
    """Images and the objects in them, as tensors: what detection is trained and judged on.

    Args:
        x: (n, 3, h, w) float32.
        y: (n, h, w) uint8 numbers of objects: 0 where there is none, k on the k-th, as in the masks of Penn-Fudan. The
            box of an object is the smallest around its pixels.

    Raises:
        InputError: if a shape, dtype or value is another, or an image shows no object.
    """

    def __post_init__(self) -> None:
        Split(self.x)
        x, y = one_tensor(self.x, "detection"), self.y
        if x.ndim != 4 or x.shape[1] != 3:
            raise InputError(f"x has shape {tuple(x.shape)}: scenes have shape (n, 3, h, w)")
        fits = y is not None and y.dtype == torch.uint8 and y.shape == (len(x), *x.shape[2:])
        if y is None or not fits:
            given = "is missing" if y is None else f"has shape {tuple(y.shape)} and {y.dtype}"
            raise InputError(
                f"y {given}: the objects of scenes are (n, h, w) uint8, {(len(x), *x.shape[2:])} here"
            )
        empty = (y.flatten(1).amax(1) == 0).nonzero().flatten().tolist()
        if empty:
            raise InputError(f"image {empty[0]} shows no object: leave it out")


def scenes(split: DetectionSplit, height: int, width: int) -> Scenes:
    """Put the images of a split at the top left of canvases of one size.

    Args:
        split: its images are at most as large.
        height, width: of the canvases.

    Raises:
        InputError: if objects overlap, are too many, or have boxes that are not the smallest around their masks.
    """
    x = torch.zeros(len(split), 3, height, width)
    y = torch.zeros(len(split), height, width, dtype=torch.uint8)
    for i, (image, boxes, masks) in enumerate(zip(split.images, split.boxes, split.masks, strict=True)):
        if len(masks) > MOST_OBJECTS:
            raise InputError(f"image {i} has {len(masks)} objects: at most {MOST_OBJECTS} can be numbered")
        if bool((masks.sum(0) > 1).any()):
            raise InputError(f"image {i} has masks that overlap: give each pixel to one object")
        for box, mask in zip(boxes.tolist(), masks, strict=True):
            if _smallest(mask) != box:
                raise InputError(f"image {i} has a box {box} that is not the smallest around its mask")
        h, w = image.shape[1:]
        x[i, :, :h, :w] = image
        numbers = torch.arange(1, len(masks) + 1, dtype=torch.uint8)
        y[i, :h, :w] = (masks * numbers[:, None, None]).sum(0, dtype=torch.uint8)
    return Scenes(x, y)


def _smallest(mask: torch.Tensor) -> list[float] | None:
    """Left, top, right, bottom around a mask, the last two excluded; None around nothing."""
    rows, columns = mask.any(1).nonzero().flatten().tolist(), mask.any(0).nonzero().flatten().tolist()
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if rows else None
