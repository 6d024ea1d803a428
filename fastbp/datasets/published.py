"""The published files of the sets, which are fetched where they are not there."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from .download import Remote, download, extract, make_folder
from .errors import DataError
from .places import CIFAR_BATCHES, CIFAR_META


def _remote(name: str, sha256: str, *bases: str) -> Remote:
    return Remote(name, tuple(base + name for base in bases), "sha256", sha256)


MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
SAMPLE = "https://raw.githubusercontent.com/davidflanagan/notMNIST-to-MNIST/master/"
MNIST = tuple(
    _remote(name, sha256, *MIRRORS)
    for name, sha256 in (
        ("train-images-idx3-ubyte.gz", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        ("train-labels-idx1-ubyte.gz", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
        ("t10k-images-idx3-ubyte.gz", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        ("t10k-labels-idx1-ubyte.gz", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
    )
)
NOTMNIST = tuple(
    _remote(name, sha256, SAMPLE)
    for name, sha256 in (
        ("t10k-images-idx3-ubyte.gz", "70ae9e06201f2827e5b0a3781a3169d735dd2efc69996b9eeaee7f10ed4044d7"),
        ("t10k-labels-idx1-ubyte.gz", "1fa03836e01c862542f8eb83463bb951bebec6fcb3efa28dad748c6b38a9021b"),
    )
)
CIFAR = Remote(
    "cifar-10-binary.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    "md5",
    "c32a1d4ab5d03f1284b67883e8d87530",
)


def fetch_files(remotes: Sequence[Remote]) -> Callable[[Path], None]:
    """What downloads these files into a folder."""

    def fetch(folder: Path) -> None:
        for remote in remotes:
            download(remote, folder)

    return fetch


def fetch_cifar(folder: Path) -> None:
    """Download CIFAR-10's binary version into a folder, and unpack it there."""
    make_folder(folder)
    archive = download(CIFAR, folder)
    extract(archive, {f"cifar-10-batches-bin/{name}": name for name in (*CIFAR_BATCHES, CIFAR_META)}, folder)
    missing = [name for name in CIFAR_BATCHES if not os.path.isfile(folder / name)]
    if missing:
        raise DataError(f"{archive}: expected {', '.join(missing)} inside; not there")
    archive.unlink(missing_ok=True)
