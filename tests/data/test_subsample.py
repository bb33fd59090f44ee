"""Fewer examples, drawn by name; and the two moons."""

import torch

from crossbar_sim.data import Split, Splits, load_data
from crossbar_sim.data.dataset import subsample
from crossbar_sim.data.embedded import load_moons
from crossbar_sim.rng import Key


def made(counts: tuple[int, ...] = (600, 300, 100)) -> Splits:
    """Examples that are their own numbers, in the order of their classes."""
    y = torch.cat([torch.full((n,), k, dtype=torch.int64) for k, n in enumerate(counts)])
    x = torch.arange(len(y), dtype=torch.float32)[:, None]
    return Splits("made", Split(x, y), Split(x[:50], y[:50]), Split(x, y), len(counts))


def test_a_draw_keeps_the_shares_of_the_classes() -> None:
    few = subsample(made(), 100, 50)
    assert few.train is not None
    assert few.train.y is not None
    assert few.test.y is not None
    assert torch.bincount(few.train.y).tolist() == [60, 30, 10]
    assert torch.bincount(few.test.y).tolist() == [30, 15, 5]


def test_labels_stay_with_their_examples_and_training_is_another_draw_than_test() -> None:
    few = subsample(made(), 100, 100)
    assert few.train is not None
    assert few.train.y is not None
    for x, y in zip(few.train.x[:, 0].tolist(), few.train.y.tolist(), strict=True):
        assert y == (0 if x < 600 else 1 if x < 900 else 2)
    assert not torch.equal(few.train.x, few.test.x)


def test_a_smaller_draw_is_part_of_a_larger_one() -> None:
    small, large = (set(subsample(made(), None, n).test.x[:, 0].tolist()) for n in (37, 200))
    assert len(small) == 37
    assert small < large


def test_the_rest_stays_whole_and_the_notes_tell() -> None:
    whole = made()
    few = subsample(whole, None, 20)
    assert few.train is whole.train
    assert few.validation is whole.validation
    assert few.notes == ("20 of 1,000 test examples, a stratified draw",)
    assert few.fingerprint != whole.fingerprint
    held = subsample(whole, None, None, validation=30)
    assert held.validation is not None
    assert len(held.validation) == 30
    assert held.train is whole.train
    assert held.test is whole.test
    assert held.notes == ("30 of 50 validation examples, a stratified draw",)
    assert subsample(whole, None, None) is whole
    assert subsample(whole, 10_000, 1000) is whole


def test_a_draw_depends_on_its_name_alone() -> None:
    first, again, other = (subsample(made(), 50, None, key).train for key in (Key(0), Key(0), Key(1)))
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.x, other.x)


def test_examples_without_labels_are_drawn_too() -> None:
    x = torch.arange(100, dtype=torch.float32)[:, None]
    few = subsample(Splits("plain", None, None, Split(x), None), None, 10)
    assert len(few.test) == 10
    assert few.test.y is None


def test_moons_are_two_classes_that_no_line_parts() -> None:
    moons = load_data("moons")
    train, test = moons.development.train, moons.test
    assert train.y is not None
    assert test.y is not None
    assert (len(train), len(moons.development.validation), len(test)) == (1200, 300, 500)
    assert torch.bincount(train.y).tolist() == [600, 600]
    # least squares, a line: 85 to 90 % for moons of this noise; the nearest training point does much better
    design = torch.cat([train.x, torch.ones(len(train), 1)], dim=1)
    line = torch.linalg.lstsq(design, train.y[:, None].float() - 0.5).solution
    by_line = ((torch.cat([test.x, torch.ones(len(test), 1)], dim=1) @ line)[:, 0] > 0).long()
    by_nearest = train.y[torch.cdist(test.x, train.x).argmin(dim=1)]
    assert 0.8 < float((by_line == test.y).float().mean()) < 0.92
    assert float((by_nearest == test.y).float().mean()) > 0.93


def test_keys_give_other_moons() -> None:
    assert load_moons(Key(0)).fingerprint == load_moons(Key(0)).fingerprint
    assert load_moons(Key(0)).fingerprint != load_moons(Key(1)).fingerprint
