import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossbar_sim.data import images, load_data, load_gtsrb
from crossbar_sim.data.catalogue import find_gtsrb
from crossbar_sim.data.gtsrb import read_table
from crossbar_sim.data.images import resize_sampled
from crossbar_sim.errors import InputError
from crossbar_sim.rng import Key

Write = Callable[..., None]
TRAIN = "GTSRB/Final_Training/Images"
TEST = "GTSRB/Final_Test/Images"
HEAD = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"


def refused(root: Path, says: str, **options: bool) -> None:
    with pytest.raises(InputError, match=says) as caught:
        load_gtsrb(root, Key(0), **options)  # type: ignore[arg-type]
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_official_folders_are_read(tmp_path: Path, write_gtsrb: Write) -> None:
    write_gtsrb(tmp_path)
    data = load_gtsrb(tmp_path, Key(0))
    development = data.development
    assert data.test.x.shape == (6, 3, 32, 32)
    assert data.classes == 43
    assert data.test.y is not None
    assert data.test.y.tolist() == [0, 1, 2, 0, 1, 2]
    raw = np.asarray(Image.open(tmp_path / TEST / "00004.ppm"))
    expected = resize_sampled(raw, (32, 32)).transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_array_equal(data.test.x[4].numpy(), expected.astype(np.float32))
    assert len(development.train) + len(development.validation) == 3 * 3 * 4
    assert any("36 of the official 39209" in note for note in data.notes)


def test_validation_is_whole_tracks_of_every_class(tmp_path: Path, write_gtsrb: Write) -> None:
    write_gtsrb(tmp_path)
    development = load_gtsrb(tmp_path, Key(0)).development
    assert development.validation.y is not None
    assert development.validation.y.tolist() == [0] * 4 + [1] * 4 + [2] * 4  # one of three tracks each
    # Which track a validation image is of, from its bytes: all four frames of it are there.
    rows = {image.numpy().tobytes() for image in development.validation.x}
    for label in range(3):
        found = []
        for path in sorted((tmp_path / TRAIN / f"{label:05}").glob("*.ppm")):
            resized = resize_sampled(np.asarray(Image.open(path)), (32, 32)).transpose(2, 0, 1)
            if np.ascontiguousarray(resized / np.float32(255), dtype=np.float32).tobytes() in rows:
                found.append(path.name[:5])
        assert len(found) == 4
        assert len({*found}) == 1


def test_the_key_chooses_the_tracks_and_nothing_else(tmp_path: Path, write_gtsrb: Write) -> None:
    write_gtsrb(tmp_path)
    prints = {load_gtsrb(tmp_path, Key(seed)).fingerprint for seed in range(4)}
    assert len(prints) > 1
    tests = {load_gtsrb(tmp_path, Key(seed)).test.x.numpy().tobytes() for seed in range(4)}
    assert len(tests) == 1


def test_a_crop_is_the_roi(tmp_path: Path, write_gtsrb: Write) -> None:
    write_gtsrb(tmp_path)
    data = load_gtsrb(tmp_path, Key(0), size=(8, 8), crop=True)
    raw = np.asarray(Image.open(tmp_path / TEST / "00002.ppm"))[1:9, 1:9]  # the rows of the table
    np.testing.assert_array_equal(
        data.test.x[2].numpy(), (raw.transpose(2, 0, 1) / np.float32(255)).astype(np.float32)
    )
    assert any("Roi" in note for note in data.notes)


def test_copies_of_32_pixels_are_taken_where_the_official_ones_are_not_there(
    tmp_path: Path, write_gtsrb: Write
) -> None:
    write_gtsrb(tmp_path, small=True)
    data = load_gtsrb(tmp_path, Key(0))
    raw = np.asarray(Image.open(tmp_path / "GTSRB/Final_Test_32x32/Images/00003.ppm")).transpose(2, 0, 1)
    np.testing.assert_array_equal(data.test.x[3].numpy(), (raw / np.float32(255)).astype(np.float32))
    assert any("copies" in note for note in data.notes)
    refused(tmp_path, "leave crop and size out", crop=True)
    with pytest.raises(InputError, match="leave crop and size out"):
        load_data("gtsrb", tmp_path, size=48)
    write_gtsrb(tmp_path)
    assert not find_gtsrb(tmp_path).resized
    assert load_data("gtsrb", tmp_path, size=(12, 20)).test.x.shape == (6, 3, 12, 20)


def test_torchvisions_layout_and_folders_without_tables_are_read(tmp_path: Path, write_gtsrb: Write) -> None:
    write_gtsrb(tmp_path / "a")
    other = tmp_path / "b" / "gtsrb"
    shutil.copytree(tmp_path / "a" / TRAIN, other / "GTSRB" / "Training")
    shutil.copytree(tmp_path / "a" / TEST, other / "GTSRB" / "Final_Test" / "Images")
    (other / "GTSRB/Final_Test/Images/GT-final_test.csv").rename(other / "GT-final_test.csv")
    for table in (other / "GTSRB" / "Training").rglob("*.csv"):
        table.unlink()
    expected = load_gtsrb(tmp_path / "a", Key(0)).fingerprint
    assert load_gtsrb(tmp_path / "b", Key(0)).fingerprint == expected
    assert load_gtsrb(tmp_path / "a" / "GTSRB", Key(0)).fingerprint == expected
    with pytest.raises(InputError, match="leave crop out"):
        load_gtsrb(tmp_path / "b", Key(0), crop=True)


def test_what_is_missing_is_named(tmp_path: Path, write_gtsrb: Write) -> None:
    refused(tmp_path, r"no Final_Training/Images.*data fetch gtsrb")
    write_gtsrb(tmp_path)
    (tmp_path / TEST / "GT-final_test.csv").unlink()
    refused(tmp_path, "no GT-final_test.csv.*GTSRB_Final_Test_GT.zip")
    shutil.rmtree(tmp_path / "GTSRB" / "Final_Test")
    refused(tmp_path, "no Final_Test/Images")


def test_files_that_contradict_their_table_are_refused(tmp_path: Path, write_gtsrb: Write) -> None:
    def change(path: str, old: str, new: str) -> None:
        shutil.rmtree(tmp_path / "GTSRB", ignore_errors=True)
        write_gtsrb(tmp_path)
        text = (tmp_path / path).read_text()
        assert old in text
        (tmp_path / path).write_text(text.replace(old, new, 1))

    first, test = f"{TRAIN}/00001/GT-00001.csv", f"{TEST}/GT-final_test.csv"
    cases = [
        (first, "00000_00000.ppm", "00000_00009.ppm", "lists 1 images that are not in .*00000_00009.ppm"),
        (
            first,
            "00000_00000.ppm;8;9;1;2;7;7;1\n",
            "",
            "holds 1 images that .* does not list, such as 00000_00000",
        ),
        (first, "00000_00001.ppm", "00000_00000.ppm", "lists 00000_00000.ppm twice"),
        (first, ";8;9;", ";8;10;", "8 x 9 pixels and its table says 8 x 10"),
        (first, ";1\n", ";2\n", "the class 2, and the folder is of class 1"),
        (first, ";1\n", ";43\n", "class 43; classes are 0 .. 42"),
        (first, ";1\n", ";-1\n", "class -1"),
        (first, "1;2;7;7;1", "1;2;9;7;1", "columns 1 .. 9"),
        (first, "1;2;7;7;1", "7;2;7;7;1", "columns 7 .. 7"),
        (first, "1;2;7;7;1", "1;2;7;x;1", "not integers"),
        (first, "1;2;7;7;1", "1;2;7", "has 6 columns of 8"),
        (first, "00000_00000.ppm", "../../../etc/passwd", "not a plain file name"),
        (first, "00000_00000.ppm", "", "not a plain file name"),
        (first, ";ClassId", "", "no column ClassId.*GTSRB_Final_Test_GT.zip"),
        (first, "Roi.X1;", "", "no column Roi.X1"),
        (first, HEAD, HEAD.replace(";", ","), "separated by ;"),
        (first, HEAD, "", "no column|begins"),
        (first, "00000_00000", "00000_0\0000", "not a plain file name|cannot be read|NUL"),
        (first, "00000_00000", '"00000_00000', "cannot be read|line"),
        (test, "00003.ppm", "00009.ppm", "GT-final_test.csv: lists 1 images"),
        (test, ";10;11;1;1;9;9;2", ";10;12;1;1;9;9;2", "10 x 11 pixels and its table says 10 x 12"),
    ]
    for path, old, new, says in cases:
        change(path, old, new)
        refused(tmp_path, says)


def test_tables_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "GT-00000.csv"
    for content, says in (
        (b"", "no column"),
        (HEAD.encode(), "lists no image"),
        (b"\xff\xfe\xff", "cannot be read"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=says):
            read_table(path, 43)
    with open(path, "wb") as file:
        file.truncate(2**33)  # sparse
    with pytest.raises(InputError, match="has more than"):
        read_table(path, 43)


def test_odd_folders_and_names_are_refused(tmp_path: Path, write_gtsrb: Write) -> None:
    write_gtsrb(tmp_path)
    (tmp_path / TRAIN / "stop").mkdir()
    refused(tmp_path, "stop: is not a class of GTSRB")
    (tmp_path / TRAIN / "stop").rename(tmp_path / TRAIN / "00043")
    refused(tmp_path, "00043: is not a class of GTSRB")
    (tmp_path / TRAIN / "00043").rmdir()
    shutil.copy(tmp_path / TRAIN / "00000" / "00000_00000.ppm", tmp_path / TRAIN / "00000" / "other.ppm")
    refused(tmp_path, "other.ppm: is not called")
    shutil.rmtree(tmp_path / TRAIN)
    (tmp_path / TRAIN).mkdir()
    refused(tmp_path, "holds no class folders")


def test_one_track_for_each_class_cannot_be_validated_on(tmp_path: Path, write_gtsrb: Write) -> None:
    write_gtsrb(tmp_path, tracks=1)
    refused(tmp_path, "no class has two tracks")


def test_damaged_images_and_too_many_are_refused(
    tmp_path: Path, write_gtsrb: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gtsrb(tmp_path)
    path = tmp_path / TRAIN / "00002" / "00001_00002.ppm"
    good = path.read_bytes()
    path.write_bytes(good[:-7])
    refused(tmp_path, "00001_00002.ppm: is not a readable image")
    path.unlink()
    path.symlink_to(path.name)
    refused(tmp_path, "00001_00002.ppm.*cannot be opened")
    path.unlink()
    path.write_bytes(good)
    monkeypatch.setattr(images, "memory", lambda: 100)
    refused(tmp_path, "GiB of memory")


def test_real_gtsrb() -> None:
    try:
        places = find_gtsrb(None)
    except InputError as error:
        pytest.skip(f"real GTSRB is not at hand: {error}")
    data = load_gtsrb(None, Key(0))
    development = data.development
    assert development.train.y is not None
    assert development.validation.y is not None
    # Every class is in all three splits.
    for y in (development.train.y, development.validation.y, data.test.y):
        assert y is not None
        assert int(y.bincount(minlength=43).min()) > 0
    share = len(development.validation) / (len(development.validation) + len(development.train))
    assert 0.12 < share < 0.18
    if places.resized:  # the subset of this project: counts by its manifest
        assert len(development.train) + len(development.validation) == 6450
        assert len(data.test) == 4210
        assert data.test.y is not None
        assert data.test.y[:2].tolist() == [16, 33]
