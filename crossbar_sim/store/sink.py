"""Writing HDF5 so that a full disk is an error and not a crash."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import h5py


class Sink:
    """The file that HDF5 writes to. After the first failed write it takes the rest and drops it.

    HDF5 cannot close a file whose last blocks cannot be written: it keeps it open and crashes when the
    process ends. So it is never told; `check` raises what went wrong.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def check(self) -> None:
        """Raise the OSError of the first write that failed, if one did."""
        if self.error is not None:
            raise self.error

    def write(self, data: Any) -> int:
        """Write all of `data`, or drop it."""
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self.error is None and done < len(view):
                done += self.file.write(view[done:])
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the length."""
        try:
            if self.error is None:
                return self.file.truncate(size)
        except OSError as error:
            self.error = error
        return size or 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a position."""
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        """The position."""
        return self.file.tell()

    def read(self, size: int = -1) -> bytes:
        """Read what was written before."""
        return self.file.read(size)

    def readinto(self, buffer: Any) -> int:
        """The same, into memory of HDF5's."""
        return int(self.file.readinto(buffer))  # type: ignore[attr-defined]

    def flush(self) -> None:
        """Nothing is kept back; the caller syncs the file when it is complete."""


@contextmanager
def writing(path: Path) -> Iterator[tuple[h5py.File, Sink]]:
    """An HDF5 file that any library from 1.8 (2008) on reads, and the sink to check while writing.

    Raises:
        OSError: of the first write that failed.
    """
    with open(path, "r+b", buffering=0) as raw:
        sink = Sink(raw)  # type: ignore[arg-type]
        try:
            # 1.8 is also the first with checksummed headers and attributes above 64 KiB.
            with h5py.File(sink, "w", libver=("v108", "v108")) as file:
                yield file, sink
        except Exception:
            sink.check()  # what HDF5 makes of dropped blocks is not the cause
            raise
        sink.check()
