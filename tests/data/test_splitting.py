import numpy as np

from crossbar_sim.data.dataset import by_group, last_of_each_class, stratified
from crossbar_sim.rng import Key


def test_the_last_of_each_class_are_held_back_in_the_order_of_the_file() -> None:
    labels = np.array([0, 1] * 10 + [0] * 10)
    train, held = last_of_each_class(labels, 0.1)
    assert held.tolist() == [19, 28, 29]  # one of ten ones, two of twenty zeros
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(30))


def test_places_are_decided_by_names_and_not_by_numbers() -> None:
    labels = np.zeros(20, dtype=int)
    names = [f"image{i}" for i in range(20)]
    turned = list(reversed(names))
    first = {names[i] for i in stratified(labels, Key(0), names)[2]}
    again = {turned[i] for i in stratified(labels, Key(0), turned)[2]}
    assert first == again
    assert len(first) == 5
    assert len(stratified(labels, Key(0), names, test_share=0.0)[2]) == 0


def test_a_group_is_never_torn_apart() -> None:
    labels = np.repeat([0, 1], 60)
    groups = [f"{i // 5}" for i in range(60)] * 2
    train, held = by_group(labels, groups, Key(0))
    of = {part: {(labels[i], groups[i]) for i in indices} for part, indices in (("a", train), ("b", held))}
    assert not of["a"] & of["b"]
    # 15 % of twelve groups, rounded, of each class; all five members of each.
    assert len(held) == 2 * 2 * 5
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(120))


def test_groups_of_different_classes_are_chosen_independently_and_by_the_key() -> None:
    labels = np.repeat([0, 1], 100)
    groups = [str(i) for i in range(100)] * 2
    held = by_group(labels, groups, Key(0))[1].tolist()
    assert {i for i in held if i < 100} != {i - 100 for i in held if i >= 100}
    assert by_group(labels, groups, Key(1))[1].tolist() != held


def test_a_class_of_one_group_stays_in_train_and_one_of_two_gives_one() -> None:
    labels = np.array([0] * 4 + [1] * 4)
    held = by_group(labels, ["a"] * 4 + ["a", "a", "b", "b"], Key(0))[1].tolist()
    assert held in ([4, 5], [6, 7])
