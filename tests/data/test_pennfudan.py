import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crossbar_sim.data import (
    DetectionDevelopment,
    DetectionSplit,
    files,
    load_data,
    load_pennfudan,
    make_pedestrians,
)
from crossbar_sim.errors import InputError
from crossbar_sim.rng import Key

IMAGES, MASKS = "PennFudanPed/PNGImages", "PennFudanPed/PedMasks"


def write(root: Path, name: str, mask: np.ndarray, pixels: np.ndarray | None = None) -> None:
    for folder in (IMAGES, MASKS):
        (root / folder).mkdir(parents=True, exist_ok=True)
    if pixels is None:
        pixels = (np.arange(mask.size * 3) % 256).astype(np.uint8).reshape(*mask.shape, 3)
    Image.fromarray(pixels).save(root / IMAGES / f"{name}.png")
    Image.fromarray(mask).save(root / MASKS / f"{name}_mask.png")


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """Eight images in the official layout, of 6 x 9 pixels, each with two people."""
    mask = np.zeros((6, 9), dtype=np.uint8)
    mask[1:5, 2] = 1
    mask[2:4, 5:8] = 2
    for i in range(8):
        write(tmp_path, f"PennPed{i:05}" if i < 4 else f"FudanPed{i:05}", mask)
    return tmp_path


def refused(root: Path, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        load_pennfudan(root)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_masks_become_boxes_and_masks(street: Path) -> None:
    data = load_pennfudan(street)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [4, 2, 2]
    for split in (data.train, data.validation, data.test):
        for image, boxes, masks in zip(split.images, split.boxes, split.masks, strict=True):
            assert image.shape == (3, 6, 9)
            assert boxes.tolist() == [[2, 1, 3, 5], [5, 2, 8, 4]]
            assert masks.sum((1, 2)).tolist() == [4, 6]
            assert masks[1, 2:4, 5:8].all()
    pixels = np.asarray(Image.open(street / IMAGES / "PennPed00000.png")).transpose(2, 0, 1)
    np.testing.assert_array_equal(data.train.images[0].numpy(), (pixels / np.float32(255)).astype(np.float32))
    assert any("8 of the official 170" in note for note in data.notes)
    assert not any("drawings" in note for note in data.notes)


def test_a_mask_with_a_palette_is_read_as_numbers(street: Path) -> None:
    path = street / MASKS / "PennPed00000_mask.png"
    numbers = Image.open(path).copy()
    numbers.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    before = load_pennfudan(street).fingerprint
    numbers.save(path)
    assert Image.open(path).mode == "P"
    assert load_pennfudan(street).fingerprint == before


def test_the_split_is_by_names_within_each_place(street: Path) -> None:
    first = load_pennfudan(street, Key(0))
    assert first.fingerprint == load_pennfudan(street, Key(0)).fingerprint
    assert isinstance(first.development, DetectionDevelopment)
    assert {field.name for field in dataclasses.fields(DetectionDevelopment)} == {"train", "validation"}


def test_images_and_masks_that_do_not_fit_are_refused(street: Path) -> None:
    path = street / MASKS / "PennPed00002_mask.png"
    good = path.read_bytes()
    cases: list[tuple[Any, str]] = [
        (np.zeros((6, 9), np.uint8), "marks no pedestrian"),
        (np.ones((5, 9), np.uint8), r"\(5, 9\) pixels and its image \(6, 9\)"),
        (np.ones((6, 9, 3), np.uint8), "a mask has one number"),
    ]
    for mask, says in cases:
        Image.fromarray(mask).save(path)
        refused(street, f"PennPed00002_mask.png.*{says}")
    path.write_bytes(good[:40])
    refused(street, "PennPed00002_mask.png: is no readable image")
    path.unlink()
    refused(street, "PennPed00002.png: has no mask")
    path.write_bytes(good)
    (street / MASKS / "Other_mask.png").write_bytes(good)
    refused(street, "Other_mask.png: is the mask of no image")


def test_missing_folders_and_too_few_images_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, "no PNGImages and PedMasks .*data fetch pennfudan")
    for folder in (IMAGES, MASKS):
        (tmp_path / folder).mkdir(parents=True)
    refused(tmp_path, "holds no .png images")
    write(tmp_path, "PennPed00000", np.ones((4, 4), np.uint8))
    refused(tmp_path, "too few for three splits")


def test_more_than_the_machines_memory_is_refused(street: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "memory", lambda: 100)
    refused(street, "GiB of memory")


def test_it_is_no_set_for_classification() -> None:
    with pytest.raises(InputError, match=r"for detection.*load_pennfudan"):
        load_data("pennfudan")


def test_drawn_pedestrians_are_in_the_official_layout_and_say_what_they_are(tmp_path: Path) -> None:
    root = make_pedestrians(tmp_path, 12, Key(3), height=64)
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == [
        "Annotation",
        "PNGImages",
        "PedMasks",
    ]
    data = load_pennfudan(tmp_path)
    assert sum(len(split) for split in (data.train, data.validation, data.test)) == 12
    assert any("drawings" in note for note in data.notes)
    assert len({tuple(image.shape) for image in data.train.images}) > 1
    assert {len(boxes) for boxes in data.train.boxes} <= {1, 2, 3}
    for split in (data.train, data.validation, data.test):
        for masks in split.masks:
            assert int(masks.sum(0).max()) <= 1  # nobody is painted over by a second number
            assert int(masks.sum((1, 2)).min()) > 20


def test_drawings_are_named_by_the_key_and_never_overwrite(tmp_path: Path) -> None:
    prints = []
    for i, seed in enumerate((0, 0, 1)):
        (tmp_path / str(i)).mkdir()
        make_pedestrians(tmp_path / str(i), 8, Key(seed), height=40)
        prints.append(load_pennfudan(tmp_path / str(i)).fingerprint)
    assert prints[0] == prints[1] != prints[2]
    with pytest.raises(InputError, match="exists already"):
        make_pedestrians(tmp_path / "0", 8)
    with pytest.raises(InputError, match="1 to 10000 images"):
        make_pedestrians(tmp_path, 0)


IMAGE, BOX, MASK = torch.zeros(3, 4, 5), torch.tensor([[1.0, 1, 3, 2]]), torch.ones(1, 4, 5, dtype=torch.bool)


@pytest.mark.parametrize(
    ("image", "boxes", "masks", "says"),
    [
        (IMAGE[0], BOX, MASK, r"images are \(3, h, w\)"),
        (IMAGE.double(), BOX, MASK, "float64"),
        (IMAGE + 2, BOX, MASK, "lie in 0 .. 1"),
        (IMAGE * torch.nan, BOX, MASK, "lie in 0 .. 1"),
        (IMAGE, BOX[0], MASK, r"they are \(k, 4\)"),
        (IMAGE, BOX.long(), MASK, "float32"),
        (IMAGE, BOX, MASK.float(), "bool fit"),
        (IMAGE, BOX, MASK[:, :3], "bool fit"),
        (IMAGE, BOX, torch.cat([MASK, MASK]), "bool fit"),
        (IMAGE, BOX + 3, MASK, "leaves the 5 x 4"),
        (IMAGE, BOX[:, [2, 1, 0, 3]], MASK, "empty"),
        (IMAGE, BOX * torch.nan, MASK, "empty"),
    ],
)
def test_what_is_no_scene_is_refused(image: Any, boxes: Any, masks: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        DetectionSplit((image,), (boxes,), (masks,))


def test_a_scene_without_objects_is_one_and_counts_must_agree() -> None:
    split = DetectionSplit((IMAGE,), (torch.zeros(0, 4),), (torch.zeros(0, 4, 5, dtype=torch.bool),))
    assert (len(split), split.objects) == (1, 0)
    for given in (((), (), ()), ((IMAGE,), (), (MASK,))):
        with pytest.raises(InputError, match="one of each"):
            DetectionSplit(*given)
