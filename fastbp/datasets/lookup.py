"""Where data sets are looked for, and what happens if they are not there."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from ..arguments import path
from .errors import DataError, DataNotFoundError

VARIABLE = "FASTBP_DATA"
T = TypeVar("T")


def user_cache() -> Path | None:
    """The user's own folder for data, by the platform's convention; None if there is no home."""
    from platformdirs import user_cache_dir

    try:
        folder = Path(user_cache_dir("fastbp"), "data")
    except (KeyError, OSError, RuntimeError):
        return None
    # Without a home the "~" stays as it is, and would become a folder of that name here.
    return folder if folder.is_absolute() else None


def find(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    match: Callable[[Path], T],
    fetch: Callable[[Path], None],
    files: Sequence[str],
) -> T:
    """Find a data set, or fetch it: in `data_dir` alone if it is given, else in $FASTBP_DATA, then in the user cache.

    - `match(root)` gives what it found in a root folder, or raises DataNotFoundError
    - `fetch(folder)` downloads into a folder, or raises DataError
    - `files` are the names to ask for if nothing helps
    """
    if data_dir is not None:
        root = _expand(path(f"{name}: data_dir", data_dir))
        if os.path.isfile(root):
            wrong = f"data_dir must be a folder, and {root} is a file"
            raise DataNotFoundError(f"{name}: {wrong}: give the folder that it is in")
        return match(root)
    cache = user_cache()
    roots = [_expand(os.environ[VARIABLE])] if os.environ.get(VARIABLE) else []
    roots += [cache] if cache is not None else []
    looked = []
    for root in roots:
        try:
            return match(root)
        except DataNotFoundError as error:
            looked.append(str(error))
    try:
        if cache is None:
            raise DataError("there is no home directory, so no cache folder to download into")
        fetch(cache / name)
    except (DataError, OSError) as error:
        if cache is not None:
            try:
                return match(cache)  # another process may have finished meanwhile
            except DataNotFoundError:
                pass
        raise DataNotFoundError(_advice(name, files, looked, cache, error)) from error
    return match(cache)


def _expand(name: str) -> Path:
    return Path(os.path.expanduser(name))


def _advice(name: str, files: Sequence[str], looked: Sequence[str], cache: Path | None, error: Exception) -> str:
    places = "\n".join(looked) or f"Looked nowhere ({VARIABLE} is not set)"
    here = f"into {cache / name}, or " if cache is not None else ""
    return (
        f"{name}: not found, and it could not be downloaded.\n"
        f"{places}\n"
        f"Download: {error}\n"
        f"To supply it yourself, put {', '.join(files)} {here}into a folder {name}/ inside any "
        f"data folder and set the environment variable {VARIABLE} to that data folder "
        f"(or pass it as data_dir, on the command line --data-dir)."
    )
