import numpy as np
import torch
from sklearn.datasets import load_digits as embedded

from crossbar_sim.data import Splits, load_digits
from crossbar_sim.data.dataset import stratified
from crossbar_sim.rng import Key


def rows(data: Splits) -> list[bytes]:
    parts = (data.train, data.validation, data.test)
    return [row.numpy().tobytes() for part in parts if part is not None for row in part.x]


def test_digits_are_scikit_learns_images_each_once() -> None:
    data = load_digits(Key(0))
    images = (embedded().images / 16).astype(np.float32)
    assert sorted(rows(data)) == sorted(image.tobytes() for image in images)


def test_every_image_keeps_its_label() -> None:
    bunch = embedded()
    truth = {
        (image / 16).astype(np.float32).tobytes(): int(label)
        for image, label in zip(bunch.images, bunch.target, strict=True)
    }
    test = load_digits(Key(0)).test
    assert test.y is not None
    assert [truth[image.numpy().tobytes()] for image in test.x] == test.y.tolist()


def test_shapes_range_and_shares() -> None:
    data = load_digits(Key(0))
    development = data.development
    assert (len(development.train), len(development.validation), len(data.test)) == (1078, 269, 450)
    assert data.test.x.shape == (450, 1, 8, 8)
    assert (float(data.test.x.min()), float(data.test.x.max())) == (0.0, 1.0)
    assert data.classes == 10


def test_every_class_is_split_in_the_same_proportion() -> None:
    data = load_digits(Key(0))
    labels = embedded().target
    for split, share in ((data.test, 0.25), (data.validation, 0.15)):
        assert split is not None
        assert split.y is not None
        for label in range(10):
            assert abs(int((split.y == label).sum()) - share * (labels == label).sum()) <= 0.5


def test_the_split_of_key_0_is_pinned() -> None:
    # Results name their data by this: if it changes, published numbers are about other images.
    assert load_digits(Key(0)).fingerprint == (
        "80c40b9d2bae1acec2eebbdb8de8b2f2c795ef29a59df9a9acb4701b4148e3b0"
    )


def test_another_key_is_another_split() -> None:
    assert not torch.equal(load_digits(Key(1)).test.x, load_digits(Key(0)).test.x)


def test_stratified_parts_are_a_partition_in_ascending_order() -> None:
    labels = np.array([5, 0] * 20 + [7])
    parts = stratified(labels, Key(3))
    assert torch.cat(parts).sort().values.tolist() == list(range(41))
    assert all(part.tolist() == sorted(part.tolist()) for part in parts)
    assert [len(part) for part in parts] == [25, 6, 10]


def test_an_added_example_of_one_class_moves_no_example_of_another() -> None:
    labels = np.array([0] * 20 + [1] * 20)
    before = stratified(labels, Key(0))
    after = stratified(np.append(labels, 1), Key(0))
    for a, b in zip(before, after, strict=True):
        assert a[a < 20].tolist() == b[b < 20].tolist()
