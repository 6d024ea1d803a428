"""The folder of a `fastbp train`: which process has it, what it holds, and whether the training in it can go on."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .. import __version__
from ..files import claimed, new_folder, opened
from ..training.resume import epochs_done, part_done

ELSEWHERE = "choose another folder"


class Refused(Exception):
    """Why the training can't be in the folder, in one line."""


class Folder:
    """The files in the folder of one training.

    `record` has its settings, is written once, and is locked as long as the training's process lives.
    `state` is what `fit(resume=…)` goes on from. `network`, `history` and `figure` are the results. `done` epochs, of
    `epochs`, had ended before.
    """

    def __init__(self, path: Path):
        self.path, self.record, self.state = path, path / "training.json", path / "training.npz"
        self.network, self.history, self.figure = path / "network.npz", path / "history.json", path / "training.png"
        self.done = self.epochs = 0

    @property
    def results(self) -> list[Path]:
        """What is there of a training, the record left out."""
        files = (self.network, self.state, self.history, self.figure)
        return [file for file in files if file.exists() and file.stat().st_size]


@contextlib.contextmanager
def training_folder(
    output: Path | None, stem: str, settings: dict, epochs: int | None, default: int, resume: bool
) -> Iterator[Folder]:
    """The folder for a training with these settings, which are named as the options are.

    It is this process's alone as long as the block lasts. output: the folder; None for a new one, the first of stem,
    stem-2, … that is not there, or with `resume` the one of these in which such a training can go on. epochs: how many
    were asked for; None for those of the training that is there, or the `default`.

    A new training needs a folder that holds nothing of another one. With `resume` it may hold one of the same settings,
    or nothing yet. Refused, and nothing changed, for any other folder. Where no epoch comes to its end, nothing of the
    training stays.
    """
    path = output or (_to_resume(stem, settings) if resume else None)
    made = path is None or not path.exists()
    path = path or new_folder(stem)
    folder, lock = Folder(path), None
    held = begun = True  # does it hold something of an earlier training, which stays whatever comes?
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = claimed(folder.record)
        if lock is None:
            raise Refused(f"another fastbp train is at work in {path}; {ELSEWHERE}")
        held = bool(folder.results)
        begun = os.fstat(lock.fileno()).st_size > 0
        _admit(folder, lock, settings, epochs or 0, default, resume)
        begun = False
        yield folder
    finally:
        if lock is not None:
            if not held and not begun and not folder.network.exists():  # nothing came of it
                for file in (folder.history, folder.state, folder.record):
                    file.unlink(missing_ok=True)
            elif not os.fstat(lock.fileno()).st_size:  # made to be locked
                folder.record.unlink(missing_ok=True)
            lock.close()
        if made:
            with contextlib.suppress(OSError):  # what has something in it stays
                path.rmdir()


def _admit(folder: Folder, lock: BinaryIO, settings: dict, epochs: int, default: int, resume: bool) -> None:
    """Refused, unless the training may be in the folder; then the record is written, if it was not."""
    path, text = folder.path, lock.read()
    folder.done, asked = epochs_done(folder.state)
    if text:
        record = _parsed(text)
        if record is None:
            raise Refused(f"{folder.record} is not of fastbp train, or it is damaged; {ELSEWHERE}")
        if not resume:
            if folder.network.exists() and part_done(folder.state) == 1:
                more = "or train on with --resume and more --epochs"
                raise Refused(f"{path} already holds a {folder.network.name}; {ELSEWHERE}, {more}")
            raise Refused(f"{path} holds a training that has not ended: go on with it by --resume, or {ELSEWHERE}")
        if other := _differences(record["settings"], settings):
            raise Refused(f"{path} holds a training of other settings: {other}")
        if not folder.state.exists() and _epochs_measured(folder.history) > 1:
            raise Refused(f"{folder.state}, from which the training could go on, is not there; {ELSEWHERE}")
        folder.epochs = epochs or asked or record["epochs"]
        if folder.done > folder.epochs:
            raise Refused(f"{path} holds {folder.done} epochs already, --epochs {epochs} asks for fewer")
    elif folder.results:
        lacks = ", but no training that can go on" if resume else ""
        raise Refused(f"{path} already holds a {folder.results[0].name}{lacks}; {ELSEWHERE}")
    else:
        folder.epochs = epochs or default
        _write(lock, {"fastbp": __version__, "settings": settings, "epochs": folder.epochs}, folder.record)
    for left in path.glob(".matplotlib.*"):  # by a process that was killed: nobody else is here
        shutil.rmtree(left, ignore_errors=True)


def _write(lock: BinaryIO, record: dict, path: Path) -> None:
    """In one piece, into the file itself: another one in its place would not be locked."""
    try:
        lock.write(json.dumps(record, indent=1).encode() + b"\n")
        os.fsync(lock.fileno())
    except OSError as error:
        lock.truncate(0)
        error.filename = str(path)
        raise


def _to_resume(stem: str, settings: dict) -> Path | None:
    """The one of the folders stem, stem-2, stem-3, … here in which a training with these settings can go on.

    Where there is a single folder, it is that one whatever its settings are. None where there is none; Refused where
    there are several to choose from.
    """
    found = [path for path in Path().glob(f"{stem}*") if re.fullmatch(re.escape(stem) + r"(-\d+)?", path.name)]
    folders = [Folder(path) for path in found]
    folders = sorted((f for f in folders if f.record.is_file()), key=lambda f: (len(f.path.name), f.path.name))
    if len(folders) == 1:
        return folders[0].path
    other = {folder: _differences_in(folder, settings) for folder in folders}
    same = [folder for folder in folders if not other[folder]]
    if folders and not same:
        listed = "; ".join(f"{folder.path} has {other[folder]}" for folder in folders)
        raise Refused(f"no training here is of these settings: {listed}")
    begun = [folder for folder in same if part_done(folder.state) < 1]
    idle = [folder for folder in begun if _is_idle(folder)]
    chosen = [folder.path for folder in idle or begun or same]
    if len(chosen) > 1:
        listed = " or ".join(map(str, chosen))
        raise Refused(f"several trainings of these settings are here: choose one by --output {listed}")
    return chosen[0] if chosen else None


def _is_idle(folder: Folder) -> bool:
    lock = claimed(folder.record)
    if lock is not None:
        lock.close()
    return lock is not None


def _differences(there: dict, here: dict) -> str:
    """What differs in the settings, by the options' names; empty for nothing."""
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    return ", ".join(f"--{name} {there.get(name)} there, {here.get(name)} here" for name in names)


def _differences_in(folder: Folder, settings: dict) -> str:
    try:
        with opened(folder.record) as file:
            record = _parsed(file.read())
    except OSError:
        record = None
    return f"no {folder.record.name} that can be read" if record is None else _differences(record["settings"], settings)


def _parsed(text: bytes) -> dict | None:
    """The record, if it is one."""
    try:
        record = json.loads(text)
        return record if isinstance(record["settings"], dict) and record["epochs"] >= 1 else None
    except (ValueError, KeyError, TypeError):
        return None


def _epochs_measured(history: Path) -> int:
    """The epochs of a history.json; 0 for no file, or another."""
    try:
        with opened(history) as file:
            return int(json.loads(file.read())["epochs"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
