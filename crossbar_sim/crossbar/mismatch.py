"""What fabrication makes of each converter: its gain and offset, properties of the chip."""

import numpy as np

from crossbar_sim.crossbar.converters import ADC
from crossbar_sim.crossbar.stream import Float32, Stream
from crossbar_sim.rng import Key

MOST_TILES = 1 << 16
"""Row tiles whose converters have names of their own."""


def mismatch(
    adc: ADC,
    key: Key,
    chip: int,
    shape: tuple[int, int, int],
    first_column: int = 0,
    reference: int | None = None,
) -> tuple[Float32, Float32]:
    """Eq. (23): gain around 1 and offset (a fraction of the range) of every read, row tile and column.

    A converter is named by the array, the chip, the read, the row tile and its place; columns that share it have
    the same values. Streams: key.fold("adc gain") and key.fold("adc offset"), the read as the plane, the row tile as
    the event, the converter's place as the cell.

    Args:
        adc: the design.
        key, chip: the array's name and the sample.
        shape: (reads, row tiles, columns).
        first_column: of these columns among all of the array's.
        reference: the number of the last of them, where it is a reference column that all groups share.
    """
    gain, offset = np.ones(shape, np.float32), np.zeros(shape, np.float32)
    reads, tiles, columns = shape
    first = first_column // adc.share
    numbers = first_column + np.arange(columns)
    if reference is not None:
        numbers[-1] = reference
    places = numbers // adc.share
    aligned = first // 256 * 256
    n = int(places[-1]) + 1 - aligned if columns else 0
    for sigma, name, base, out in (
        (adc.gain_sigma, "adc gain", 1.0, gain), (adc.offset_sigma, "adc offset", 0.0, offset),
    ):  # fmt: skip
        for r in range(reads if sigma else 0):
            for t in range(tiles):
                z = Stream.of(key.fold(name), chip, r, t).normals(n, aligned)
                out[r, t] = np.float32(base) + np.float32(sigma) * z[places - aligned]
    return gain, offset
