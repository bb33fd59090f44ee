import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossbar_sim.data.images import header, opened, pixels, resize_sampled
from crossbar_sim.errors import InputError

WritePicture = Callable[..., np.ndarray]


def refused(path: Path, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught, opened(path) as image:
        pixels(image, grey=False)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A grey PNG that claims this size, written from the format's description."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    claimed = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", claimed)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("suffix", ["png", "bmp", "ppm", "tiff"])
def test_pixels_are_those_of_the_file(tmp_path: Path, write_picture: WritePicture, suffix: str) -> None:
    written = write_picture(tmp_path / f"a.{suffix}", 5, 7)
    assert header(tmp_path / f"a.{suffix}") == (5, 7, False)
    with opened(tmp_path / f"a.{suffix}") as image:
        np.testing.assert_array_equal(pixels(image, grey=False), written.transpose(2, 0, 1))


def test_grey_stays_grey_or_becomes_three_equal_channels(tmp_path: Path, write_picture: WritePicture) -> None:
    written = write_picture(tmp_path / "a.png", 5, 7, grey=True)
    assert header(tmp_path / "a.png") == (5, 7, True)
    with opened(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(pixels(image, grey=True), written[None])
        np.testing.assert_array_equal(pixels(image, grey=False), np.stack([written] * 3))


def test_transparency_is_dropped(tmp_path: Path) -> None:
    values = (np.arange(5 * 7 * 4) % 256).astype(np.uint8).reshape(5, 7, 4)
    Image.fromarray(values).save(tmp_path / "a.png")
    with opened(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(pixels(image, grey=False), values[:, :, :3].transpose(2, 0, 1))


def test_an_image_that_claims_too_many_pixels_is_refused_before_decoding(tmp_path: Path) -> None:
    for width, height in ((100_000, 100_000), (2**31 - 1, 1), (10_000, 7_000), (2**31 - 1, 2**31 - 1)):
        (tmp_path / "bomb.png").write_bytes(png(width, height))
        refused(tmp_path / "bomb.png", "pixels")
    (tmp_path / "bomb.ppm").write_bytes(b"P6 90000 90000 255\n")
    refused(tmp_path / "bomb.ppm", "pixels")


def test_damaged_files_and_other_files_are_refused(tmp_path: Path, write_picture: WritePicture) -> None:
    path = tmp_path / "a.png"
    for content in (
        b"",
        b"hello",
        b"\x89PNG\r\n\x1a\n",
        png(0, 5),
        png(20, 20, b"\0" * 10),
        b"P6 3 3 70000 ",
        b"P6",
    ):
        path.write_bytes(content)
        refused(path, "not a readable image|pixels")
    write_picture(tmp_path / "b.ppm", 5, 7)
    path.write_bytes((tmp_path / "b.ppm").read_bytes()[:-1])
    refused(path, "not a readable image")
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")  # would start another program
    refused(path, "not a readable image")


def test_what_8_bits_do_not_hold_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.arange(20, dtype=np.uint16).reshape(4, 5) * 3000).save(tmp_path / "deep.png")
    refused(tmp_path / "deep.png", "8-bit grey or colour")


def test_several_frames_are_refused(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for name in ("a.tiff", "a.webp", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        refused(tmp_path / name, "several frames")


def test_pipes_folders_and_loops_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "broken.png").symlink_to("nowhere.png")
    for name, says in (
        ("pipe", "not a regular file"),
        ("loop", "cannot be opened"),
        ("broken", "no such file"),
    ):
        refused(tmp_path / f"{name}.png", says)


# What OpenCV 5.0.0 (and 4) gives: cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), channel 1.
SMALLER = [[52, 156, 70], [149, 126, 166], [129, 159, 95], [141, 35, 149]]
LARGER = [
    [67, 32, 117, 203, 168],
    [80, 44, 99, 172, 181],
    [105, 70, 62, 109, 206],
    [131, 95, 56, 72, 169],
    [156, 121, 81, 60, 69],
    [169, 134, 94, 54, 19],
]


@pytest.mark.parametrize(
    ("given", "wanted", "expected"), [((5, 7), (4, 3), SMALLER), ((3, 4), (6, 5), LARGER)]
)
def test_resizing_gives_opencvs_bits(given: tuple, wanted: tuple, expected: list) -> None:
    values = (np.arange(given[0] * given[1] * 3) * 67 % 251).astype(np.uint8).reshape(*given, 3)
    assert resize_sampled(values, wanted)[:, :, 1].tolist() == expected


def test_resizing_is_within_rounding_of_interpolation_by_floats() -> None:
    import torch

    values = (np.arange(41 * 29 * 3) * 7919 % 256).astype(np.uint8).reshape(41, 29, 3)
    batch = torch.from_numpy(values.transpose(2, 0, 1)[None].astype(np.float64))
    exact = torch.nn.functional.interpolate(batch, (32, 24), mode="bilinear", align_corners=False)[0].numpy()
    assert np.abs(resize_sampled(values, (32, 24)).transpose(2, 0, 1) - exact).max() < 1


def test_resizing_a_constant_or_to_its_own_size_changes_nothing() -> None:
    constant = np.full((9, 11, 3), 200, dtype=np.uint8)
    assert (resize_sampled(constant, (4, 30)) == 200).all()
    values = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    np.testing.assert_array_equal(resize_sampled(values, (3, 3)), values)
