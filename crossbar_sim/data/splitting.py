"""Splits that no library version can change: places are decided by SHA-256 or by the order of a file."""

from collections.abc import Sequence

import numpy as np
import torch

from crossbar_sim.rng import Key

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
    train, held, tested = (torch.tensor(sorted(part), dtype=torch.int64) for part in parts)
    return train, held, tested


def last_of_each_class(labels: np.ndarray, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Hold back the last examples of every class, in the order of the file.

    Args:
        labels: (n,) class numbers.
        share: of every class, rounded.

    Returns:
        Ascending indices of train and validation.
    """
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        held[members[len(members) - round(share * len(members)) :]] = True
    return torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))


def by_group(labels: np.ndarray, groups: Sequence[str], key: Key) -> tuple[torch.Tensor, torch.Tensor]:
    """Hold back whole groups of every class: what lies in one group never lies in both parts.

    Of a class's groups 15 % (rounded, at least one) are held back, none where there is but one.

    Args:
        labels: (n,) class numbers.
        groups: the name of each example's group; within a class a name is one group.
        key: the name of the split.

    Returns:
        Ascending indices of train and validation.
    """
    train: list[int] = []
    held: list[int] = []
    for label in np.unique(labels):
        members = [int(i) for i in np.flatnonzero(labels == label)]
        names = sorted({groups[i] for i in members}, key=lambda name: key.fold(str(label), name).digest())
        count = max(1, round(VALIDATION_SHARE * len(names))) if len(names) > 1 else 0
        kept_back = set(names[:count])
        for i in members:
            (held if groups[i] in kept_back else train).append(i)
    return torch.tensor(sorted(train), dtype=torch.int64), torch.tensor(sorted(held), dtype=torch.int64)
