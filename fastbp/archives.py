"""Arrays in .npz files, as `numpy.savez` writes them: read whole, or not at all."""

import io
import os
import zipfile

import numpy as np

from .files import opened


class Damaged(ValueError):
    """A file that is no .npz archive of arrays, or is not as it was written."""


def read_arrays(path: str | os.PathLike, *names: str) -> dict[str, np.ndarray]:
    """The arrays of these names, or all of them, by name. Nothing in the file is executed.

    OSError, which names the path, for a file that can't be opened; Damaged for one that is no archive or is damaged.

    NumPy reads no further than an array's head says. So a damaged head may name another dtype or shape, and the
    checksum of what follows is never compared. Here each part is read to its end, and its checksum compared, before
    NumPy sees it. No checksum covers the list of the parts: who needs them all has to know their names.
    """
    with opened(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                there = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
                if len(there) < len(archive.namelist()):
                    raise Damaged("a part that is no array, or a name that stands twice")
                return {name: _array(archive.read(there[name])) for name in names or there}
        except MemoryError:
            raise
        except Exception as error:  # of zipfile, its decompressors and NumPy, which have no common kind for this
            raise Damaged(str(error)) from None


def _array(content: bytes) -> np.ndarray:
    file = io.BytesIO(content)
    array = np.lib.format.read_array(file, allow_pickle=False)
    if file.read(1):
        raise Damaged("more bytes than the array has")
    return array
