"""What data is, once read: tensors in memory, split, with a fingerprint.

A fit receives a `Development`, which has no test images in it: selecting on the reported images
is then a type error and not a rule to remember.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from crossbar_sim.errors import InputError


@dataclass(frozen=True, eq=False)
class Split:
    """Examples, and their labels where there are any.

    Args:
        x: (n, ...) float32, finite, n >= 1.
        y: (n,) int64, all >= 0, or (n, places...) for one label per token or pixel, where negative ones (-100) are
            not judged; `None` means unlabelled.

    Raises:
        InputError: if a shape, dtype or value is another.
    """

    x: torch.Tensor
    y: torch.Tensor | None = None

    def __post_init__(self) -> None:
        x, y = self.x, self.y
        if x.dtype != torch.float32:
            raise InputError(f"x has dtype {_short(x.dtype)}: examples are float32")
        if x.ndim < 2 or x.numel() == 0:
            raise InputError(
                f"x has shape {tuple(x.shape)}: examples have shape (n, ...) with at least one "
                "example of at least one value; a single feature is (n, 1)"
            )
        # One pass without a temporary; aminmax hands a NaN through.
        low, high = torch.aminmax(x)
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise InputError("x holds NaN or infinity (or values beyond float32): clean the examples")
        if y is None:
            return
        if y.dtype != torch.int64:
            raise InputError(f"y has dtype {_short(y.dtype)}: labels are int64 class numbers")
        if y.ndim == 0 or y.shape[:1] != x.shape[:1] or (y.ndim > 1 and y.shape[1:].numel() < 2):
            raise InputError(
                f"y has shape {tuple(y.shape)} and x holds {len(x)} examples: "
                f"labels have shape ({len(x)},), one class number per example"
            )
        if int(y.min()) < 0 and y.ndim == 1:
            raise InputError(f"y holds {int(y.min())}: labels are class numbers from 0 up")

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, eq=False)
class Development:
    """What training and selection may see. There is no test split in it."""

    train: Split
    validation: Split


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set as the final evaluation sees it.

    Args:
        name: what reports call it.
        train, validation: `None` where the data is for testing only.
        test: what scores are reported on.
        classes: how many classes the labels 0 .. classes - 1 name; `None` without labels.
        notes: what was done to the raw values, as sentences for the report.

    Raises:
        InputError: if the splits differ in the shape of an example, or a label is >= classes.
    """

    name: str
    train: Split | None
    validation: Split | None
    test: Split
    classes: int | None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for part, split in self._parts():
            if split.x.shape[1:] != self.test.x.shape[1:]:
                raise InputError(
                    f"{self.name}: an example of {part} has shape {tuple(split.x.shape[1:])} and "
                    f"one of test {tuple(self.test.x.shape[1:])}: they must be equal"
                )
            top = -1 if split.y is None else int(split.y.max())
            if self.classes is not None and top >= self.classes:
                raise InputError(
                    f"{self.name}: {part} holds label {top}; with {self.classes} classes "
                    f"labels are 0 .. {self.classes - 1}"
                )

    def _parts(self) -> list[tuple[str, Split]]:
        parts = (("train", self.train), ("validation", self.validation), ("test", self.test))
        return [(part, split) for part, split in parts if split is not None]

    @property
    def development(self) -> Development:
        """The train and validation splits, for a fit or a search.

        Raises:
            InputError: if this data is for testing only.
        """
        if self.train is None or self.validation is None:
            raise InputError(
                f"{self.name}: this data is a test split only, there is nothing to train on; "
                "train on one of the named data sets, or build Development(train, validation)"
            )
        return Development(self.train, self.validation)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the dtype, shape and little-endian bytes of every tensor.

        Part of a result's identity: two files that hold the same numbers have the same fingerprint,
        whatever they are called. Computed when first asked for.
        """
        state = hashlib.sha256()
        for part, split in self._parts():
            for field, tensor in (("x", split.x), ("y", split.y)):
                if tensor is None:
                    continue
                array = tensor.detach().cpu().contiguous().numpy()
                state.update(f"{part}.{field} {array.dtype.name} {array.shape}\n".encode())
                little = array.astype(array.dtype.newbyteorder("<"), copy=False)
                state.update(np.ascontiguousarray(little).data)
        return state.hexdigest()


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
