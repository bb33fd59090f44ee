"""What data is, once read: tensors in memory, split, with a fingerprint.

A fit receives a `Development`, which has no test images in it: selecting on the reported images
is then a type error and not a rule to remember.
"""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from crossbar_sim.data.inputs import Batch, Inputs, named_of
from crossbar_sim.errors import InputError
from crossbar_sim.rng import Key


@dataclass(frozen=True, eq=False)
class Split:
    """Examples, and their labels where there are any.

    Args:
        x: (n, ...) float32, finite, n >= 1; or several inputs, of which floats are float32, integers int64.
        y: (n,) int64, all >= 0, or (n, places...) for one label per token or pixel, where negative ones (-100) are
            not judged; or float64, (n,) or (n, ...): real targets; `None` means unlabelled.

    Raises:
        InputError: if a shape, dtype or value is another.
    """

    x: Batch
    y: torch.Tensor | None = None

    def __post_init__(self) -> None:
        x, y = self.x, self.y
        for name, tensor in named_of(x):
            _check_values(name, tensor, whole=isinstance(x, Inputs))
        if y is None:
            return
        if y.dtype not in (torch.int64, torch.float64):
            raise InputError(
                f"y has dtype {_short(y.dtype)}: labels are int64 class numbers, real targets float64"
            )
        if y.ndim == 0 or len(y) != len(x) or (y.ndim > 1 and y.shape[1:].numel() < 2):
            raise InputError(
                f"y has shape {tuple(y.shape)} and x holds {len(x)} examples: "
                f"labels have shape ({len(x)},), one class number per example"
            )
        if y.dtype == torch.int64 and y.ndim == 1 and int(y.min()) < 0:
            raise InputError(f"y holds {int(y.min())}: labels are class numbers from 0 up")

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        labels = "no labels" if self.y is None else f"y {(*self.y.shape,)} {_short(self.y.dtype)}"
        inputs = ", ".join(f"{name} {(*x.shape,)} {_short(x.dtype)}" for name, x in named_of(self.x))
        return f"Split({inputs}, {labels})"


def _check_values(name: str, x: torch.Tensor, whole: bool) -> None:
    """Refuse a tensor of examples that is empty, of another type or not finite; `whole`: integers are right as well."""
    if x.dtype != torch.float32 and not (whole and x.dtype in (torch.int64, torch.bool)):
        raise InputError(f"{name} has dtype {_short(x.dtype)}: examples are float32")
    if (x.ndim < 2 and not whole) or x.numel() == 0:
        raise InputError(
            f"{name} has shape {tuple(x.shape)}: examples have shape (n, ...) with at least one "
            "example of at least one value; a single feature is (n, 1)"
        )
    if not x.is_floating_point():
        return
    # One pass without a temporary; aminmax hands a NaN through.
    low, high = torch.aminmax(x)
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise InputError(f"{name} holds NaN or infinity (or values beyond float32): clean the examples")


def shapes_of(x: Batch) -> dict[str, tuple[int, ...]]:
    """The shape of one example, by the name of each input; "x" where there is one."""
    return {name: tuple(tensor.shape[1:]) for name, tensor in named_of(x)}


def _shapes(x: torch.Tensor | Inputs) -> str:
    return " of shape " + ", ".join(f"{(*tensor.shape[1:],)}" for _, tensor in named_of(x))


@dataclass(frozen=True, eq=False)
class Development:
    """What training and selection may see. There is no test split in it."""

    train: Split
    validation: Split

    def __repr__(self) -> str:
        parts = f"train {len(self.train)}, validation {len(self.validation)}"
        return f"Development({parts} examples{_shapes(self.train.x)})"

    @cached_property
    def fingerprint(self) -> str:
        """As of `Splits`, with the validation examples in the place of the test ones."""
        return Splits("", self.train, None, self.validation, None).fingerprint


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
            mine, test = shapes_of(split.x), shapes_of(self.test.x)
            if mine != test:
                name = next((n for n in (*mine, *test) if mine.get(n) != test.get(n)), "x")
                what = "" if name == "x" else f" of {name}"
                raise InputError(
                    f"{self.name}: an example{what} of {part} has shape {mine.get(name)} and "
                    f"one of test {test.get(name)}: they must be equal"
                )
            top = -1 if split.y is None or split.y.is_floating_point() else int(split.y.max())
            if self.classes is not None and top >= self.classes:
                raise InputError(
                    f"{self.name}: {part} holds label {top}; with {self.classes} classes "
                    f"labels are 0 .. {self.classes - 1}"
                )

    def __repr__(self) -> str:
        parts = ", ".join(f"{part} {len(split)}" for part, split in self._parts())
        classes = "" if self.classes is None else f", {self.classes} classes"
        return f"Splits({self.name}: {parts} examples{_shapes(self.test.x)}{classes})"

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
            raise InputError(self._nothing_to_train_on())
        return Development(self.train, self.validation)

    def _nothing_to_train_on(self) -> str:
        if not self.name.lower().endswith(".npz"):
            return (
                f"{self.name}: this data is a test split only, there is nothing to train on; "
                "train on one of the named data sets, or build Development(train, validation)"
            )
        inputs = [f"{name}_train" for name, _ in named_of(self.test.x)]
        labels = "labels_train" if isinstance(self.test.x, Inputs) else "y_train"
        if self.train is not None:
            return f"{self.name}: {inputs[0]} has too few examples to hold any back: add x_val and y_val to the file"
        return (
            f"{self.name}: this data is a test split only, there is nothing to train on; add the arrays "
            f"{', '.join((*inputs, labels))} to the file (x and y are the test examples)"
        )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the dtype, shape and little-endian bytes of every tensor.

        Part of a result's identity: two files that hold the same numbers have the same fingerprint,
        whatever they are called. Computed on first use.
        """
        state = hashlib.sha256()
        for part, split in self._parts():
            x = split.x
            inputs = [(n if n == "x" else f"x.{n}", tensor) for n, tensor in named_of(x)]
            for field, tensor in (*inputs, ("y", split.y)):
                if tensor is not None:
                    add_tensor(state, f"{part}.{field} {_short(tensor.dtype)}", tensor)
            for name, value in x.constants() if isinstance(x, Inputs) else ():
                state.update(f"{part}.x.{name} = {value!r}\n".encode())
        return state.hexdigest()


def add_tensor(state: "hashlib._Hash", name: str, tensor: torch.Tensor) -> None:
    """Add a tensor to a fingerprint: its name (with the dtype), its shape and its little-endian bytes."""
    plain = tensor.detach().cpu().contiguous()
    state.update(f"{name} {tuple(plain.shape)}\n".encode())
    raw = plain.reshape(-1).view(torch.uint8).numpy()
    if sys.byteorder == "big":
        raw = np.ascontiguousarray(raw.reshape(-1, plain.element_size())[:, ::-1])
    state.update(raw.data)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# Splits that no library version can change: places are decided by SHA-256 or by the order of a file.


VALIDATION_SHARE = 0.15
TEST_SHARE = 0.25

Indices = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def stratified(
    labels: np.ndarray, key: Key, names: Sequence[str] | None = None, test_share: float = TEST_SHARE
) -> Indices:
    """Split indices into train, validation and test, class by class.

    An example's place is decided by the SHA-256 of its name below `key`: no generator, so no library
    version can move an example from one split to another.

    Args:
        labels: (n,) class numbers.
        key: the name of the split.
        names: of the examples, each once; `None`: their numbers 0 .. n - 1.
        test_share: of every class, rounded; 15 % are validation.

    Returns:
        Three ascending int64 index tensors that together are 0 .. n - 1: train, validation, test.
    """
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for label in np.unique(labels):
        members = [int(i) for i in np.flatnonzero(labels == label)]
        members.sort(key=lambda i: key.fold(str(i) if names is None else names[i]).digest())
        test = round(test_share * len(members))
        validation = round(VALIDATION_SHARE * len(members))
        parts[2].extend(members[:test])
        parts[1].extend(members[test : test + validation])
        parts[0].extend(members[test + validation :])
    train_indices, validation_indices, test_indices = (
        torch.tensor(sorted(part), dtype=torch.int64) for part in parts
    )
    return train_indices, validation_indices, test_indices


def last_of_each_class(labels: np.ndarray, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Hold back the last examples of every class, in the order of the file.

    Args:
        labels: (n,) class numbers.
        share: of every class, rounded.

    Returns:
        Ascending indices of train and validation.
    """
    validation = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        validation[members[len(members) - round(share * len(members)) :]] = True
    return torch.from_numpy(np.flatnonzero(~validation)), torch.from_numpy(np.flatnonzero(validation))


def by_group(labels: np.ndarray, groups: Sequence[str], key: Key) -> tuple[torch.Tensor, torch.Tensor]:
    """Hold back whole groups of every class, so that no group is in both parts.

    Of a class's groups 15 % (rounded, at least one) are held back, none where there is only one.

    Args:
        labels: (n,) class numbers.
        groups: the name of each example's group; within a class a name is one group.
        key: the name of the split.

    Returns:
        Ascending indices of train and validation.
    """
    train: list[int] = []
    validation: list[int] = []
    for label in np.unique(labels):
        members = [int(i) for i in np.flatnonzero(labels == label)]
        names = sorted({groups[i] for i in members}, key=lambda name: key.fold(str(label), name).digest())
        count = max(1, round(VALIDATION_SHARE * len(names))) if len(names) > 1 else 0
        validation_groups = set(names[:count])
        for i in members:
            (validation if groups[i] in validation_groups else train).append(i)
    return torch.tensor(sorted(train), dtype=torch.int64), torch.tensor(sorted(validation), dtype=torch.int64)


# A subsample of the examples, drawn by name, for a reduced budget.


def subsample(
    splits: Splits,
    train: int | None,
    test: int | None,
    key: Key = Key(0),  # noqa: B008 (frozen)
    *,
    validation: int | None = None,
) -> Splits:
    """The same data with at most so many training, validation and test examples.

    A draw is stratified, and a smaller one is part of a larger one. It depends on the labels and the key alone and
    not on a run's seed, so that all models see the same examples. The notes say what was left out.

    Args:
        splits: the data.
        train, test, validation: how many; None, or more than there are: all.
        key: names the draw.
    """
    parts = {
        "train": (splits.train, train),
        "validation": (splits.validation, validation),
        "test": (splits.test, test),
    }
    changed: dict[str, Split] = {}
    notes = list(splits.notes)
    for part, (split, count) in parts.items():
        if split is None or count is None or count >= len(split):
            continue
        chosen = _first(split, count, key.fold("limit", part))
        changed[part] = type(split)(split.x[chosen], None if split.y is None else split.y[chosen])
        notes.append(f"{count:,} of {len(split):,} {part} examples, a stratified draw")
    if not changed:
        return splits
    return replace(
        splits,
        train=changed.get("train", splits.train),
        validation=changed.get("validation", splits.validation),
        test=changed.get("test", splits.test),
        notes=tuple(notes),
    )


def _first(split: Split, count: int, key: Key) -> torch.Tensor:
    """Ascending indices of the first `count` in an order that takes from every class in proportion."""
    # not the objects of scenes, nor real targets
    classes = split.y is not None and split.y.dim() == 1 and not split.y.is_floating_point()
    labels = split.y.numpy() if split.y is not None and classes else np.zeros(len(split), np.int64)
    order = []
    for label in np.unique(labels):
        members = [(key.fold(str(i)).digest(), int(i)) for i in np.flatnonzero(labels == label)]
        members.sort()
        order += [((rank + 0.5) / len(members), digest, i) for rank, (digest, i) in enumerate(members)]
    order.sort()
    return torch.tensor(sorted(i for _, _, i in order[:count]), dtype=torch.int64)
