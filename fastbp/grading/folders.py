"""The temporary folder that a submission runs in: filled, measured, removed."""

import contextlib
import os
import shutil
import stat
import subprocess
from pathlib import Path

from .limits import SubmissionError

SOURCE_BYTES, SOURCE_FILES = 20_000_000, 1_000  # of a submission
FOLDER_FILES = 5_000  # that a submission may make


def copy_submission(source: Path, folder: Path) -> None:
    """Copy the submission's Python files. No links: they could lead to the grader's files."""
    if not source.is_dir():
        files = [(source, source.name if source.suffix == ".py" else source.name + ".py")]
    else:
        files = []
        for parent, folders, names in os.walk(source):
            folders[:] = [name for name in folders if not name.startswith((".", "__pycache__"))]
            for name in names:
                path = Path(parent, name)
                if name.endswith(".py") and stat.S_ISREG(path.lstat().st_mode):
                    files.append((path, str(path.relative_to(source))))
    if len(files) > SOURCE_FILES or sum(path.stat().st_size for path, _ in files) > SOURCE_BYTES:
        raise SubmissionError("import", f"the submission is larger than {SOURCE_FILES} files or {SOURCE_BYTES} bytes")
    for path, name in files:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def main_file(folder: Path, main: str | None) -> str:
    """The name of the file to be read: `main`, or the only Python file there is."""
    names = sorted(path.name for path in folder.glob("*.py"))
    if main is not None:
        if main not in names:
            raise SubmissionError("import", f"there is no {main} in the submission")
        return main
    if len(names) != 1:
        found = "no Python file" if not names else "several Python files: " + ", ".join(names[:10])
        raise SubmissionError("import", f"the submission must have one main file, but has {found}")
    return names[0]


def used(folder: Path) -> tuple[int, int]:
    """The bytes and files in a folder, counted up to the most files allowed."""
    size = files = 0
    folders = [str(folder)]
    while folders and files <= FOLDER_FILES:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                files += 1
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                if files > FOLDER_FILES:
                    break
    return size, files


def remove(folder: Path) -> None:
    """Remove the folder, whatever the submission made of it: read-only folders, or nested too deep for a recursion."""
    with contextlib.suppress(OSError, RecursionError):
        shutil.rmtree(folder)
    if folder.exists():
        for command in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
            subprocess.run([*command, "--", str(folder)], stdin=subprocess.DEVNULL, capture_output=True, check=False)
