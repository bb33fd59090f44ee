"""Data for detection: images of various sizes, and the boxes and masks of what is to be found in them."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

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

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the dtype, shape and little-endian bytes of every tensor."""
        state = hashlib.sha256()
        for part in ("train", "validation", "test"):
            split: DetectionSplit = getattr(self, part)
            for i, tensors in enumerate(zip(split.images, split.boxes, split.masks, strict=True)):
                for field, tensor in zip(("image", "boxes", "masks"), tensors, strict=True):
                    array = tensor.detach().cpu().contiguous().numpy()
                    state.update(f"{part}.{i}.{field} {array.dtype.name} {array.shape}\n".encode())
                    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
                    state.update(np.ascontiguousarray(little).data)
        return state.hexdigest()
