"""Fewer examples than there are, drawn by name: what a reduced budget uses."""

from dataclasses import replace

import numpy as np
import torch

from crossbar_sim.data.dataset import Split, Splits
from crossbar_sim.rng import Key


def limited(
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
    for part, (split, limit) in parts.items():
        if split is None or limit is None or limit >= len(split):
            continue
        chosen = _first(split, limit, key.fold("limit", part))
        changed[part] = type(split)(split.x[chosen], None if split.y is None else split.y[chosen])
        notes.append(f"{limit:,} of {len(split):,} {part} examples, a stratified draw")
    if not changed:
        return splits
    return replace(
        splits,
        train=changed.get("train", splits.train),
        validation=changed.get("validation", splits.validation),
        test=changed.get("test", splits.test),
        notes=tuple(notes),
    )


def _first(split: Split, limit: int, key: Key) -> torch.Tensor:
    """Ascending indices of the first `limit` in an order that takes from every class in proportion."""
    classes = split.y is not None and split.y.dim() == 1  # the objects of scenes are none
    labels = split.y.numpy() if split.y is not None and classes else np.zeros(len(split), np.int64)
    order = []
    for label in np.unique(labels):
        members = [(key.fold(str(i)).digest(), int(i)) for i in np.flatnonzero(labels == label)]
        members.sort()
        order += [((rank + 0.5) / len(members), digest, i) for rank, (digest, i) in enumerate(members)]
    order.sort()
    return torch.tensor(sorted(i for _, _, i in order[:limit]), dtype=torch.int64)
