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
    Scenes,
    images,
    load_data,
    load_pennfudan,
    make_pedestrians,
)
from crossbar_sim.data.dataset import subsample
from crossbar_sim.data.detection import scenes
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
    refused(street, "PennPed00002_mask.png: is not a readable image")
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
    monkeypatch.setattr(images, "memory", lambda: 100)
    refused(street, "GiB of memory")


def test_by_its_name_it_comes_as_scenes_on_one_canvas(tmp_path: Path) -> None:
    wide, tall = np.zeros((5, 9), np.uint8), np.zeros((8, 4), np.uint8)
    wide[1:4, 2:8], tall[2, 1], tall[5:, 3] = 3, 1, 7
    for i in range(4):
        write(tmp_path, f"PennPed{i:05}", wide)
        write(tmp_path, f"FudanPed{i:05}", tall)
    data = load_data("pennfudan", tmp_path)
    plain = load_pennfudan(tmp_path)
    assert data.classes is None
    assert "canvas of 9 x 8 pixels" in data.notes[-1]
    assert data.fingerprint != plain.fingerprint
    for split, given in (
        (data.train, plain.train),
        (data.validation, plain.validation),
        (data.test, plain.test),
    ):
        assert isinstance(split, Scenes)
        assert split.x.shape[1:] == (3, 8, 9)
        for x, y, image, masks in zip(split.x, split.y, given.images, given.masks, strict=True):
            _, h, w = image.shape
            assert torch.equal(x[:, :h, :w], image)
            assert float(x[:, h:].sum() + x[:, :, w:].sum()) == 0
            assert int(y.max()) == len(masks)  # numbered anew, from 1
            for k, mask in enumerate(masks, start=1):
                assert torch.equal(y[:h, :w] == k, mask)


def test_scenes_refuse_what_they_cannot_hold() -> None:
    x, y = torch.zeros(2, 3, 4, 5), torch.ones(2, 4, 5, dtype=torch.uint8)
    assert len(Scenes(x, y)) == 2
    with pytest.raises(InputError, match=r"\(n, 3, h, w\)"):
        Scenes(x[:, :1], y)
    with pytest.raises(InputError, match=r"has shape \(2, 4, 5\) and torch.int64"):
        Scenes(x, y.long())
    with pytest.raises(InputError, match="y is missing"):
        Scenes(x)
    with pytest.raises(InputError, match="image 1 shows no object"):
        Scenes(x, y * torch.tensor([1, 0], dtype=torch.uint8)[:, None, None])
    masks = torch.zeros(2, 4, 5, dtype=torch.bool)
    masks[0, :2, 1:4], masks[1, 1:, 2:] = True, True
    boxes = torch.tensor([[1.0, 0, 4, 2], [2, 1, 5, 4]])
    with pytest.raises(InputError, match="image 0 has masks that overlap"):
        scenes(DetectionSplit((x[0],), (boxes,), (masks,)), 4, 5)
    with pytest.raises(InputError, match="not the smallest"):
        scenes(DetectionSplit((x[0],), (boxes[:1] + 1,), (masks[:1],)), 5, 6)


def test_a_smaller_draw_of_scenes_is_one_of_scenes(street: Path) -> None:
    small = subsample(load_data("pennfudan", street), 2, 1)
    assert isinstance(small.train, Scenes)
    assert [len(split) for split in (small.train, small.validation, small.test) if split is not None] == [
        2,
        2,
        1,
    ]


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
