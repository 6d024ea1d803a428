"""Where the files of a set lie: their names, and the folders and archives that may hold them."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from . import packed
from .errors import DataError, DataNotFoundError
from .formats import class_files, is_image, is_junk
from .packed import Source

LETTERS = tuple("ABCDEFGHIJ")
TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CIFAR_BATCHES = (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin")
CIFAR_META = "batches.meta.txt"
CIFAR_PICKLES = tuple(name.removesuffix(".bin") for name in CIFAR_BATCHES)
CIFAR_PICKLED_META = "batches.meta"
CIFAR_FOLDERS = ("cifar-10-batches-bin", "cifar-10-batches-py")
CIFAR_ARCHIVES = ("cifar-10-python", "cifar-10-binary", "cifar-10-batches-py", "cifar-10-batches-bin")
NOTMNIST_FOLDERS = ("notMNIST_small", "notMNIST_large")


def _idx_names(*stems: str) -> list[list[str]]:
    """The names each idx file may have; some unpackers turn the last hyphen but one to a dot."""
    spellings = [(stem, stem.replace("-idx", ".idx")) for stem in stems]
    return [[name + suffix for name in names for suffix in ("", ".gz")] for names in spellings]


Look: TypeAlias = Callable[[str], Source | None]  # for a file of some name, in one folder or archive


def _in_folder(folder: Path) -> Look:
    return lambda name: folder / name if os.path.isfile(folder / name) else None


def _in_archives(paths: Iterable[Path], names: Iterable[str]) -> Iterator[Look]:
    wanted = set(names)
    for path in paths:
        yield packed.members(path, lambda member: member.name if member.name in wanted else None).get


def _first_of(look: Look, names: Sequence[str]) -> Source | None:
    return next((source for name in names if (source := look(name)) is not None), None)


def _all_of(
    name: str, versions: Sequence[Sequence[Sequence[str]]], looks: Iterable[Look], folders: Sequence[Path]
) -> tuple[list[Source], Look]:
    """One file for each list of names in a version of the set, all from the first place that has them all; that place.

    DataNotFoundError where there is none: it says what is missing in the place where least is, or everything where no
    place has anything. `folders` are all that were looked in.
    """
    fewest = None
    for look in looks:
        for choices in versions:
            found = [_first_of(look, names) for names in choices]
            missing = [names[0] for names, source in zip(choices, found, strict=True) if source is None]
            if not missing:
                return found, look
            if len(missing) < len(choices) and (fewest is None or len(missing) < len(fewest)):
                fewest = missing
    wanted = [fewest] if fewest else [[names[0] for names in choices] for choices in versions]
    raise _not_there(name, f"{', or '.join(map(', '.join, wanted))} (plain or compressed)", folders)


def _not_there(name: str, wanted: str, folders: Sequence[Path]) -> DataNotFoundError:
    archives = packed.lying_about(folders)
    hint = f". If they are in {' or '.join(archives)}, unpack that first" if archives else ""
    return DataNotFoundError(f"{name}: expected {wanted} in {' or '.join(map(str, folders))}; not there{hint}")


def mnist_files(root: Path) -> list[Source]:
    """The four idx files: training images and labels, test images and labels."""
    homes = [root / "mnist", root, root / "MNIST"]
    folders = [*homes, *(home / "raw" for home in homes), root / "mnist" / "MNIST" / "raw"]
    return _all_of("mnist", [_idx_names(*TRAIN, *TEST)], map(_in_folder, folders), folders)[0]


def cifar_files(root: Path) -> tuple[list[Source], Source | None]:
    """The batches in order, and the file with the names of the classes, if there is one."""
    homes = [root / "cifar10", root]
    folders = [*homes, *(home / name for home in homes for name in CIFAR_FOLDERS)]
    meta, suffixes = (CIFAR_META, CIFAR_PICKLED_META), ("", ".xz", ".gz")
    versions = [[[name + suffix for suffix in suffixes] for name in names] for names in (CIFAR_BATCHES, CIFAR_PICKLES)]

    def looks() -> Iterator[Look]:
        yield from map(_in_folder, folders)
        yield from _in_archives(packed.present(homes, CIFAR_ARCHIVES), (*CIFAR_BATCHES, *CIFAR_PICKLES, *meta))

    paths, look = _all_of("cifar10", versions, looks(), folders)
    return paths, _first_of(look, meta)


def notmnist_files(root: Path) -> tuple[list[Source], None] | tuple[list[tuple[int, Source]], Path]:
    """Four or two idx files; or image files with their labels, and the folder or archive that they are in."""
    home = root / "notmnist"
    look = _in_folder(home)
    train = [path for names in _idx_names(*TRAIN) if (path := _first_of(look, names))]
    test = [path for names in _idx_names(*TEST) if (path := _first_of(look, names))]
    if len(test) == 2 and len(train) != 1:
        return train + test, None
    if len(train) == 1:
        raise DataError(f"{home}: expected both {TRAIN[0]} and {TRAIN[1]}, found only {train[0].name}")
    homes = [home, root]
    folders = [folder for home in homes for folder in (home, *(home / name for name in NOTMNIST_FOLDERS))]
    incomplete = ""
    for folder in folders:
        missing = [letter for letter in LETTERS if not os.path.isdir(folder / letter)]
        if not missing:
            return class_files(folder, LETTERS), folder
        if len(missing) < len(LETTERS):
            incomplete = incomplete or f" ({folder} has no {', '.join(missing)})"
    for archive in packed.present(homes, NOTMNIST_FOLDERS):
        inside = packed.members(archive, _letter_and_name)
        missing = sorted(set(LETTERS) - {letter for letter, _ in inside})
        if not missing:
            return [(LETTERS.index(key[0]), inside[key]) for key in sorted(inside)], archive
        incomplete = incomplete or f" ({archive} has no {', '.join(missing)})"
    wanted = f"{TEST[0]} and {TEST[1]} (plain or gzipped) in {home}, or folders A to J of images{incomplete}"
    raise _not_there("notmnist", wanted, folders)


def _letter_and_name(path: PurePosixPath) -> tuple[str, str] | None:
    """Of an image in a folder A to J of an archive."""
    letter = path.parent.name
    usable = letter in LETTERS and is_image(path.name) and not any(map(is_junk, path.parts))
    return (letter, path.name) if usable else None
