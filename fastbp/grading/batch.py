"""Many submissions: found, graded over an executor, and written down as they come."""

import contextlib
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from .. import arguments
from ..arguments import flag, instance, number, whole
from ..engine.threads import usable_cores
from ..files import written_atomically
from ..processes import pool
from .assignment import AssignmentError, load_assignment
from .grader import grade
from .results import Result


@dataclass(frozen=True)
class Job:
    """One submission to grade, of a class.

    `name` is the one in results, `path` its file or folder, `assignment` a name or a file. The result is written to
    `record` (None: nowhere), in the form that `form` gives it.
    """

    name: str
    path: Path
    assignment: str
    seed: int
    seconds: float | None
    record: Path | None
    form: Callable[[Result], dict] = Result.to_dict
    last: Result | None = field(default=None, init=False, compare=False)  # what was written last

    def __call__(self) -> Result:
        """Grade it here, with what there is on disk after every item. Whatever goes wrong is the result's error."""
        try:
            assignment = load_assignment(self.assignment)
            path = (self.path.is_dir() and _home(self.path)) or self.path
            return grade(path, assignment, self.seed, self.seconds, self.write)
        except AssignmentError:
            raise
        except Exception as error:  # a fault of the grader: the others are still graded
            return self.failed(f"the grader failed: {type(error).__name__}: {error}")

    def write(self, result: Result) -> None:
        """Put the result where it belongs, whole or not at all."""
        result.submission = self.name
        object.__setattr__(self, "last", result)
        if self.record is None:
            return
        try:
            text = json.dumps(self.form(result), indent=1, ensure_ascii=False)
            with written_atomically(self.record) as file:
                file.write(text.encode("utf-8", "backslashreplace"))
        except OSError as error:  # a full disk: what was graded is still returned
            note = f"{self.record} could not be written: {error.strerror}"
            result.notes = [*(n for n in result.notes if n != note), note]

    def failed(self, why: str) -> Result:
        """A result that says why nothing more could be graded, with the items that were before."""
        result = self.last or Result(self.name, self.assignment, self.seed, 0.0)
        if self.last is None and self.record is not None:  # another process's, which has ended
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                result = Result.from_dict(json.loads(self.record.read_text()))
        with contextlib.suppress(AssignmentError):
            result.possible = load_assignment(self.assignment).points
        result.error, result.finished = why, True
        self.write(result)
        return result


def find_submissions(paths: Sequence[Path | str], one: bool = False) -> dict[str, Path]:
    """The submissions under the paths, by name.

    A file is one, and so is each Python file in a folder and each folder in it that holds Python files; with `one`, a
    folder itself. Names that occur twice get their folder's before them.

    FileNotFoundError for a path that is not there, ValueError for a folder without submissions.
    """
    instance("find_submissions: paths", paths, (list, tuple), "list of paths")
    found: list[Path] = []
    one = flag("find_submissions: one", one)
    for path in [Path(arguments.path("find_submissions: paths: each", path)) for path in paths]:
        if not path.exists():
            raise FileNotFoundError(f"no such file or folder: {path}")
        if path.suffix == ".ipynb":
            raise ValueError(f"{path} is a notebook: export it as a Python file")
        inside = [path] if path.is_file() or one else sorted(p for p in path.iterdir() if _is_submission(p))
        if not inside:
            raise ValueError(f"{path} holds no Python files, and no folders with any")
        found += inside
    found = list(dict.fromkeys(p.absolute() for p in found))
    named: dict[str, Path] = {}
    plain = [p.stem if p.is_file() else p.name for p in found]
    for name, path in zip(plain, found, strict=True):
        wanted = name if plain.count(name) == 1 else "-".join([*path.parts[-3:-1], name])
        wanted = wanted if len(wanted.encode()) <= 120 else f"{wanted[:30]}-{zlib.crc32(wanted.encode()):08x}"
        free, number = wanted, 2
        while free in named:
            free, number = f"{wanted}-{number}", number + 1
        named[free] = path
    return named


def left_out(paths: Sequence[Path | str]) -> list[Path]:
    """What in the folders is no submission and not hidden: notebooks, archives, folders without Python files."""
    inside = [p for path in map(Path, paths) if path.is_dir() for p in path.iterdir()]
    return sorted(p for p in inside if not _is_submission(p) and not p.name.startswith((".", "__")))


def _is_submission(path: Path) -> bool:
    if path.name.startswith((".", "__")):
        return False
    return path.suffix.lower() == ".py" if path.is_file() else path.is_dir() and _home(path) is not None


def _home(folder: Path) -> Path | None:
    """The folder itself if it holds Python files, or the only folder below it that does."""
    for _ in range(4):
        if any(folder.glob("*.py")):
            return folder
        below = [p for p in folder.iterdir() if p.is_dir() and any(p.rglob("*.py"))]
        if len(below) != 1:
            return None
        folder = below[0]
    return None


def grade_all(
    paths: Sequence[Path | str],
    assignment: str | Path,
    seed: int = 0,
    jobs: int | None = None,
    seconds: float | None = None,
    folder: Path | str | None = None,
    executor: Executor | None = None,
    one: bool = False,
    done: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """The results of all submissions under `paths`, in the order in which they were found.

    They are graded over `executor`, any of `concurrent.futures` or alike (Dask's `client.get_executor()`, mpi4py's
    MPIPoolExecutor): by default `jobs` processes, as many as there are cores. The same seed gives the same scores with
    any. Each submission's result is in `folder` as NAME.json, rewritten after every item. `done(result)` is called as
    each ends, in any order.

    AssignmentError, FileNotFoundError, TypeError and ValueError before anything is graded.
    """
    assignment = arguments.path("grade_all: assignment", assignment)
    load_assignment(assignment)
    submissions = find_submissions(paths, one)
    seed, done = whole("grade_all: seed", seed, 0), arguments.function("grade_all: done", done)
    jobs = usable_cores() if jobs is None else whole("grade_all: jobs", jobs)
    seconds = None if seconds is None else number("grade_all: seconds", seconds, above=0)
    if executor is not None:
        instance("grade_all: executor", executor, Executor, "an executor of concurrent.futures")
    if folder is not None:
        folder = Path(arguments.path("grade_all: folder", folder))
        folder.mkdir(parents=True, exist_ok=True)
    work = [
        Job(name, path, assignment, seed, seconds, None if folder is None else folder / f"{name}.json")
        for name, path in submissions.items()
    ]
    results: dict[str, Result] = {}
    with pool(min(jobs, len(work)), executor) as workers:
        futures = {workers.submit(job): job for job in work} if workers is not None else {}
        try:
            for job, result in _results(work, futures):
                results[job.name] = result
                done(result)
        except BaseException:
            for future in futures:
                future.cancel()
            raise
    return [results[job.name] for job in work]


def _results(work: list[Job], futures: dict) -> Iterator[tuple[Job, Result]]:
    """Each job with its result; one whose worker died is failed, and the rest go on here."""
    if not futures:
        for job in work:
            yield job, job()
        return
    for future in as_completed(futures):
        job = futures[future]
        try:
            result = future.result()
        except AssignmentError:
            raise
        except Exception as error:  # the worker process is gone, or the pool is: this one alone, once more
            result = job() if type(error).__name__ == "BrokenProcessPool" else job.failed(f"the grader failed: {error}")
        yield job, result
