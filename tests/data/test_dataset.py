import dataclasses

import pytest
import torch

from crossbar_sim.data import Development, Split, Splits
from crossbar_sim.data.inputs import Inputs
from crossbar_sim.errors import InputError

X = torch.arange(12, dtype=torch.float32).reshape(4, 3)
Y = torch.tensor([0, 1, 2, 1])


def splits(**changed: object) -> Splits:
    given: dict = {
        "name": "tiny",
        "train": Split(X, Y),
        "validation": Split(X[:2], Y[:2]),
        "test": Split(X),
        "classes": 3,
    }
    return Splits(**{**given, **changed})


def test_development_has_no_way_to_the_test_split() -> None:
    development = splits().development
    assert {field.name for field in dataclasses.fields(Development)} == {"train", "validation"}
    assert not hasattr(development, "test")
    assert development.train.x is X


def test_data_for_testing_only_cannot_be_developed_on() -> None:
    with pytest.raises(InputError, match="test split only"):
        _ = splits(train=None, validation=None).development
    named = Inputs(
        kwargs={"input_ids": torch.zeros(len(X), 3, dtype=torch.int64), "mask": torch.ones(len(X), 3)}
    )
    for test, arrays in (
        (Split(X), "x_train, y_train"),
        (Split(named), "input_ids_train, mask_train, labels_train"),
    ):
        with pytest.raises(InputError, match=f"mine.npz: .*add the arrays {arrays} to the file"):
            _ = splits(name="mine.npz", train=None, validation=None, test=test).development


def test_a_split_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Split(X).x = X  # type: ignore[misc]


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (X.double(), None, "float64"),
        (X[:, 0], None, r"\(n, 1\)"),
        (X[:0], None, "at least one"),
        (torch.tensor([[0.0, float("nan")]]), None, "NaN or infinity"),
        (torch.tensor([[0.0, float("-inf")]]), None, "NaN or infinity"),
        (X, Y[:3], r"shape \(3,\) and x holds 4"),
        (X, Y[:, None], r"shape \(4, 1\)"),
        (X, Y.float(), "float32: labels are int64"),
        (X, Y - 1, "holds -1"),
    ],
)
def test_what_is_no_data_is_refused(x: torch.Tensor, y: torch.Tensor | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Split(x, y)


def test_a_label_beyond_the_classes_is_refused() -> None:
    with pytest.raises(InputError, match=r"train holds label 2; with 2 classes"):
        splits(classes=2)


def test_splits_of_different_examples_are_refused() -> None:
    with pytest.raises(InputError, match=r"validation has shape \(2,\) and one of test \(3,\)"):
        splits(validation=Split(X[:, :2]))


def test_fingerprint_is_of_the_numbers_and_not_of_the_name() -> None:
    assert splits().fingerprint == splits(name="other").fingerprint
    assert len(splits().fingerprint) == 64


def test_fingerprint_sees_values_shapes_labels_and_the_split() -> None:
    nudged = X.clone()
    nudged[3, 2] += 1e-6
    variants = [
        splits(),
        splits(train=Split(nudged, Y)),
        splits(train=Split(X)),
        splits(train=Split(X, Y.flip(0))),
        splits(train=None, validation=Split(X, Y), classes=3),
        splits(train=Split(X, Y), validation=None),
        Splits("flat", None, None, Split(X.reshape(4, 3, 1)), None),
        Splits("flat", None, None, Split(X), None),
    ]
    assert len({data.fingerprint for data in variants}) == len(variants)


def test_fingerprint_does_not_depend_on_strides() -> None:
    turned = X.T.contiguous().T
    assert not turned.is_contiguous()
    assert splits(train=Split(turned, Y)).fingerprint == splits().fingerprint
