import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crossbar_sim.data import images, load_data, load_folder
from crossbar_sim.errors import InputError
from crossbar_sim.rng import Key

WritePicture = Callable[..., np.ndarray]


@pytest.fixture
def classes(tmp_path: Path, write_picture: WritePicture) -> Path:
    """tmp_path/pets with cats and dogs, 20 of each, of 6 x 5 pixels."""
    for label, name in enumerate(("cats", "dogs")):
        for i in range(20):
            write_picture(tmp_path / "pets" / name / f"{i:02}.png", 6, 5, seed=label * 20 + i)
    return tmp_path / "pets"


def refused(path: Path, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        load_folder(path, Key(0))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_class_folders_are_split_by_class(classes: Path) -> None:
    data = load_folder(classes, Key(0))
    assert (data.name, data.classes) == ("pets", 2)
    parts = (data.development.train, data.development.validation, data.test)
    for part, count in zip(parts, (12, 3, 5), strict=True):
        assert part.x.shape[1:] == (3, 6, 5)
        assert part.y is not None
        assert part.y.bincount().tolist() == [count, count]
    assert any("'cats', 'dogs'" in note for note in data.notes)
    assert any("15 %" in note for note in data.notes)


def test_every_image_is_in_one_split_with_its_label(classes: Path) -> None:
    data = load_folder(classes, Key(0))
    starts = []
    for part in (data.development.train, data.development.validation, data.test):
        assert part.y is not None
        for image, label in zip(part.x, part.y.tolist(), strict=True):
            starts.append((round(float(image[0, 0, 0]) * 255), label))
    assert sorted(starts) == sorted((seed * 101 % 256, seed // 20) for seed in range(40))


def test_an_added_image_moves_no_other(classes: Path, write_picture: WritePicture) -> None:
    before = {image.numpy().tobytes() for image in load_folder(classes, Key(0)).test.x}
    write_picture(classes / "cats" / "a.png", 6, 5, seed=99)
    write_picture(classes / "birds" / "b.png", 6, 5, seed=98)
    write_picture(classes / "birds" / "c.png", 6, 5, seed=97)
    after = {image.numpy().tobytes() for image in load_folder(classes, Key(0)).test.x}
    # A class of 21 keeps its 5 test images or swaps one for the new one.
    assert len(before & after) >= 9


def test_folders_of_parts_are_the_splits(tmp_path: Path, write_picture: WritePicture) -> None:
    for part, count in (("Train", 20), ("val", 2), ("test", 3)):
        for name in ("a", "b"):
            for i in range(count):
                write_picture(tmp_path / part / name / f"{i}.png", 4, 4, seed=i)
    data = load_folder(tmp_path, Key(0))
    assert [len(s) for s in (data.development.train, data.development.validation, data.test)] == [40, 4, 6]
    (tmp_path / "val").rename(tmp_path / ".val")
    data = load_folder(tmp_path, Key(0))
    assert [len(s) for s in (data.development.train, data.development.validation, data.test)] == [34, 6, 6]
    assert any("15 % of every class of train" in note for note in data.notes)
    (tmp_path / "Train").rename(tmp_path / ".Train")
    data = load_folder(tmp_path, Key(0))
    assert (data.train, data.validation, len(data.test)) == (None, None, 6)


def test_grey_images_have_one_channel_and_mixed_ones_three(
    tmp_path: Path, write_picture: WritePicture
) -> None:
    for i in range(8):
        write_picture(tmp_path / "a" / f"{i}.png", 4, 4, seed=i, grey=True)
        write_picture(tmp_path / "b" / f"{i}.png", 4, 4, seed=i, grey=True)
    assert load_folder(tmp_path, Key(0)).test.x.shape[1:] == (1, 4, 4)
    write_picture(tmp_path / "b" / "7.png", 4, 4)
    assert load_folder(tmp_path, Key(0)).test.x.shape[1:] == (3, 4, 4)


def test_sizes_must_be_equal_or_a_size_be_given(classes: Path, write_picture: WritePicture) -> None:
    write_picture(classes / "dogs" / "07.png", 9, 5)
    refused(classes, r"07.png: has 9 x 5 pixels and .*00.png 6 x 5; give a size")
    data = load_data(classes, size=(8, 12))
    assert data.test.x.shape[1:] == (3, 8, 12)
    assert any("8 x 12" in note for note in data.notes)
    assert load_data(str(classes), size=4).test.x.shape[1:] == (3, 4, 4)


def test_other_files_are_skipped_and_named(classes: Path) -> None:
    (classes / "cats" / "Thumbs.db").write_bytes(b"x")
    (classes / "cats" / ".DS_Store").write_bytes(b"x")
    (classes / "notes.txt").write_text("x")
    (classes / "__MACOSX").mkdir()
    data = load_folder(classes, Key(0))
    assert any(
        "2 files that are not images were skipped: 'cats/Thumbs.db', 'notes.txt'" in n for n in data.notes
    )


def test_a_file_that_only_looks_like_an_image_is_refused(classes: Path) -> None:
    (classes / "cats" / "zz.jpg").write_text("<html>not found</html>")
    refused(classes, "zz.jpg: is not a readable image")


def test_folders_of_another_form_are_refused(tmp_path: Path, write_picture: WritePicture) -> None:
    refused(tmp_path / "nowhere", "cannot be listed")
    refused(tmp_path, "holds no folders")
    write_picture(tmp_path / "loose.png", 4, 4)
    refused(tmp_path, "holds no folders")
    (tmp_path / "a").mkdir()
    refused(tmp_path, "a: holds no images")
    write_picture(tmp_path / "a" / "deep" / "0.png", 4, 4)
    refused(tmp_path, "deep: is a folder in the folder of a class")


def test_folders_of_parts_of_another_form_are_refused(tmp_path: Path, write_picture: WritePicture) -> None:
    write_picture(tmp_path / "train" / "a" / "0.png", 4, 4)
    refused(tmp_path, "train and test are needed")
    write_picture(tmp_path / "other" / "0.png", 4, 4)
    refused(tmp_path, "holds train and other")
    (tmp_path / "other").rename(tmp_path / "Training")
    refused(tmp_path, "both for train")
    (tmp_path / "Training").rename(tmp_path / "val")
    refused(tmp_path, "train and test are needed")
    (tmp_path / "val").rename(tmp_path / "test")
    refused(tmp_path, "test: holds no folders")
    (tmp_path / "test" / "0.png").unlink()
    write_picture(tmp_path / "test" / "b" / "0.png", 4, 4)
    refused(tmp_path, "b: is a class that .*train does not have")


def test_too_few_images_for_three_splits_are_refused(tmp_path: Path, write_picture: WritePicture) -> None:
    for i in range(3):
        write_picture(tmp_path / "a" / f"{i}.png", 4, 4)
    refused(tmp_path, "too few images: validation would be empty")


def test_loops_of_links_are_no_trap(classes: Path) -> None:
    (classes / "cats" / "loop").symlink_to(classes, target_is_directory=True)
    refused(classes, "loop: is a folder in the folder of a class")
    (classes / "cats" / "loop").unlink()
    (classes / "cats" / "self.png").symlink_to("self.png")
    refused(classes, "self.png.*cannot be opened")
    (classes / "cats" / "self.png").unlink()
    (classes / "self").symlink_to("self")
    assert load_folder(classes, Key(0)).classes == 2
    os.mkfifo(classes / "cats" / "pipe.png")
    refused(classes, "pipe.png: is a pipe, not a regular file")


def test_links_to_images_and_folders_are_followed(classes: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    for name in ("cats", "dogs"):
        (tmp_path / "linked" / name).symlink_to(classes / name, target_is_directory=True)
    assert load_folder(tmp_path / "linked", Key(0)).fingerprint == load_folder(classes, Key(0)).fingerprint


def test_more_than_the_machines_memory_is_refused(classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "memory", lambda: 100)
    refused(classes, "GiB of memory")


def test_the_folder_of_a_named_set_is_not_taken_for_classes(tmp_path: Path) -> None:
    for name, below in (("gtsrb", "GTSRB"), ("cifar10", "cifar-10-batches-py"), ("pennfudan", "PNGImages")):
        (tmp_path / name / below).mkdir(parents=True)
        with pytest.raises(
            InputError, match=f"holds {below}, of {name}: give the name {name} and --data-dir"
        ):
            load_data(tmp_path / name)
