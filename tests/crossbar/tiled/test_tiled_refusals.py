"""What cannot be read is refused in one sentence, with both sides."""

import numpy as np
import pytest

from crossbar_sim import InputError, Key
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.crossbar.tiled import Quantiser, TiledPlanes, convolution, product

PLANES = np.ones((2, 6, 4), np.float32)
X = np.ones((3, 6), np.float32)
IMAGES = np.ones((3, 6, 5, 5), np.float32)
NAN = np.where(np.eye(3, 6) > 0, np.nan, X).astype(np.float32)
STREAM = Stream.of(Key(1), 0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"tile_rows": 0}, "tile_rows=0: must be an integer above 0"),
        ({"tile_rows": 2.5}, "tile_rows=2.5"),
        ({"planes": PLANES[None]}, r"planes of shape \(1, 2, 6, 4\)"),
        ({"planes": PLANES * np.nan}, "a plane holds 48 NaN or infinite values of 48"),
        ({"weights": (1,)}, r"weights of shape \(1,\): must be 2 finite numbers"),
        ({"weights": (1, np.inf)}, "must be 2 finite numbers"),
        ({"variance": PLANES[0]}, r"variance of shape \(1, 6, 4\): must be that of the planes, \(2, 6, 4\)"),
        ({"variance": -PLANES}, "the variance of read noise must be at least 0"),
        ({"variance": PLANES * np.inf}, "the variance of read noise holds 48"),
        ({"quantiser": Quantiser(0.0, -1, 1)}, "step must be above 0 and finite; the least is 0.0"),
        ({"quantiser": Quantiser(-2.0, -1, 1)}, "the least is -2.0"),
        ({"quantiser": Quantiser(np.nan, -1, 1)}, "step must be above 0"),
        ({"quantiser": Quantiser(1e-50, -1, 1)}, "single precision"),
        ({"quantiser": Quantiser(1.0, -1, 1, offset=1e60)}, "single precision"),
        ({"quantiser": Quantiser(1.0, 2, 1)}, r"codes 2 \.\. 1"),
        ({"quantiser": Quantiser(1.0, -0.5, 1)}, "integers"),
        ({"quantiser": Quantiser(1.0, 0, 2**25)}, "at most 2"),
        ({"quantiser": Quantiser(1.0, np.nan, 1)}, "integers"),
        ({"quantiser": Quantiser(1.0, 0, np.inf)}, "integers"),
        ({"quantiser": Quantiser(1.0, 0, 1, gain=np.inf)}, "a converter's gain must be finite"),
        ({"quantiser": Quantiser(1.0, 0, 1, offset=np.nan)}, "a converter's offset must be finite"),
        ({"quantiser": Quantiser(np.ones((3, 1, 1)), 0, 1)}, r"step of shape \(3, 1, 1\): must fit"),
        ({"quantiser": Quantiser(1.0, 0, 1, gain=np.ones(3))}, r"gain of shape \(3,\): must fit"),
    ],
)
def test_planes(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        TiledPlanes(**{"planes": PLANES, "tile_rows": 4} | arguments)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"x": X[0]}, r"inputs of shape \(6,\)"),
        ({"x": X[:, :5]}, "inputs of 5 numbers: the planes have 6 word lines"),
        ({"x": NAN}, "the inputs hold 3 NaN or infinite values of 18"),
        ({"x": X * np.inf}, "the inputs hold 18"),
        ({"input_weights": (1, 2)}, "must be 1 finite numbers"),
        ({"stream": STREAM}, "read noise needs both"),
        ({"first_example": -1}, "first_example=-1"),
        ({"out": np.ones((3, 5), np.float32)}, r"must be contiguous, writeable float32 of shape \(3, 4\)"),
        ({"out": np.ones((3, 4))}, "float64"),
        ({"out": np.ones((4, 3), np.float32).T}, "contiguous"),
    ],
)
def test_products(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        product(TiledPlanes(PLANES, tile_rows=4), **{"x": X} | arguments)


def test_noise_needs_its_name_and_has_an_end():
    tiled = TiledPlanes(PLANES, tile_rows=4, variance=PLANES)
    with pytest.raises(InputError, match="read noise needs both"):
        product(tiled, X)
    with pytest.raises(InputError, match="another event"):
        product(tiled, X, stream=STREAM, first_example=1 << 32)
    with pytest.raises(InputError, match=r"4 conversions per output"):
        product(tiled, X, stream=Stream.of(Key(1), 0, (1 << 32) - 3))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"x": X}, r"inputs of shape \(3, 6\)"),
        ({"x": IMAGES[:, :5]}, "images of 5 channels from 0 on"),
        ({"first_channel": 1}, "images of 6 channels from 1 on"),
        ({"kernel": (4, 1)}, "a kernel of 4x1"),
        ({"kernel": (0, 1)}, r"kernel=\(0, 1\): must be two integers of at least 1"),
        ({"kernel": 3}, "kernel=3"),
        ({"stride": (1, 0)}, r"stride=\(1, 0\)"),
        ({"dilation": (1.5, 1)}, r"dilation=\(1.5, 1\)"),
        ({"padding": (0, -1)}, r"padding=\(-1, -1\)"),
        ({"padding": (0, (0, 1, 2))}, "padding="),
        ({"padding": (0, 0, 0)}, "padding="),
        ({"kernel": (6, 1), "x": np.ones((1, 1, 5, 5), np.float32)}, "is larger"),
        ({"out": np.ones((3, 3, 5, 5), np.float32)}, "out of 3 channels: 4 from 0 on do not fit"),
        ({"out": np.ones((3, 4, 5, 4), np.float32)}, "must be contiguous, writeable float32"),
        ({"first_output": -1}, "do not fit"),
        ({"row": np.ones(3, np.float32), "x": IMAGES[:, :4]}, "1 bias rows"),
        ({"row": np.ones(2, np.float32), "x": IMAGES[:, :5]}, r"row of shape \(1, 2\): must be \(1, 3\)"),
        ({"x": IMAGES * np.nan}, "NaN or infinite"),
    ],
)
def test_convolutions(arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        convolution(TiledPlanes(PLANES, tile_rows=4), **{"x": IMAGES, "kernel": (1, 1)} | arguments)
