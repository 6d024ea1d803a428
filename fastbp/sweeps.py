"""Hyper-parameter sweeps: one function called with many settings, over any executor of concurrent.futures.

    def train(width, seed):                     # at the top of a module: other processes import it
        ...
        return {"accuracy": accuracy}

    if __name__ == "__main__":
        for run in sweep(train, grid(width=[100, 1000], seed=[0, 1, 2]), folder="runs"):
            print(run.settings["width"], run.result["accuracy"])

Runs share nothing, and a network's results do not depend on the number of threads: the numbers are the same with any
number of jobs and any executor.
"""

import contextlib
import hashlib
import inspect
import itertools
import json
import os
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import __version__
from .arguments import flag, instance, path, shown, whole
from .engine.threads import set_num_threads, usable_cores
from .files import written_atomically
from .processes import pool
from .terminal import Terminal, tell, watched
from .training.resume import part_done, seconds_spent

LOOK = 1.0  # seconds between two looks at the files of the runs that are under way


class SweepError(RuntimeError):
    """Some runs of a sweep failed; the message says which and why. The other runs are in `runs` and in the folder."""

    def __init__(self, message: str, runs: "list[Run]"):
        super().__init__(message)
        self.runs = runs


@dataclass(frozen=True)
class Run:
    """One call of the function: the keyword arguments `settings`, what it returned as JSON has it, the time it took.

    The time of a run that went on after an interruption includes that of the epochs before.
    """

    settings: dict[str, Any]
    result: Any
    seconds: float


def grid(**values: Sequence) -> list[dict[str, Any]]:
    """All combinations of the values, the last name's changing fastest.

    >>> grid(lr=[0.1, 0.01], seed=[0, 1])
    [{'lr': 0.1, 'seed': 0}, {'lr': 0.1, 'seed': 1}, {'lr': 0.01, 'seed': 0}, {'lr': 0.01, 'seed': 1}]
    """
    given = [_items(f"grid: values of {name}", of_name) for name, of_name in values.items()]
    try:
        return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*given)]
    except MemoryError:
        raise MemoryError("grid: values: more combinations than there is memory for") from None


def sweep(
    function: Callable[..., Any],
    settings: Sequence[dict[str, Any]],
    folder: str | os.PathLike | None = None,
    jobs: int | None = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> list[Run]:
    """Call `function(**settings[k])` for every k and return the runs in that order.

    The calls are spread over `jobs` processes, as many as there are cores unless given, with one of fastbp's threads
    each. With one job, or one call, there are no other processes and the call may use all threads. An `executor` given
    takes their place: any of `concurrent.futures`, Dask's `client.get_executor()`, mpi4py's MPIPoolExecutor. Settings
    and results must be what JSON can hold.

    With a `folder`, each result is kept there as its run ends, and a run whose result is there already is not run
    again: a sweep that was interrupted goes on where it was. Results belong to the settings and to the source of the
    function with all that it refers to in the modules of its folder; where these or fastbp's version change, the run is
    made anew. If the function has a parameter `resume`, it is called with the path of a file of this run alone, for
    `fit(..., resume=resume)`: then a run that was interrupted goes on too. An executor's workers must see the folder
    under the same path.

    `progress` shows a bar in a terminal, and prints a line a run to standard error elsewhere; the bar moves with the
    epochs of runs that use `resume`. A call that raises does not keep the others from running: SweepError tells of it
    at the end. TypeError or ValueError before any call for arguments that can't be used, settings that JSON can't hold
    among them.
    """
    inside = inspect.unwrap(function) if callable(function) else None  # of functools.cache and other decorators
    if not (inspect.isfunction(inside) or inspect.ismethod(inside)) or not hasattr(function, "__qualname__"):
        wanted = "a function of Python's, whose source can be told"
        raise TypeError(f"sweep: function must be {wanted}, got {shown(function)}")
    settings = [_named(chosen) for chosen in _items("sweep: settings", settings)]
    jobs = usable_cores() if jobs is None else whole("sweep: jobs", jobs)
    if executor is not None:
        instance("sweep: executor", executor, Executor, "an executor of concurrent.futures")
    progress = flag("sweep: progress", progress)
    folder = None if folder is None else Path(path("sweep: folder", folder))
    keys = [_key(function, chosen) for chosen in settings]
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    calls = {key: _Call(function, chosen, _resume(function, folder, key), os.getpid())
             for key, chosen in zip(keys, settings, strict=True)}  # fmt: skip
    runs = {key: run for key, call in calls.items() if (run := _kept(folder, key, call.settings)) is not None}
    work = {key: call for key, call in calls.items() if key not in runs}
    failures = []
    begun = [call.resume for call in work.values() if call.resume is not None]
    with _Progress(len(calls), len(runs), begun, progress) as told, pool(min(jobs, len(work)), executor) as workers:
        for key, outcome in _outcomes(work, workers):
            name = ", ".join(f"{name} {value}" for name, value in work[key].settings.items())
            if isinstance(outcome, Exception):
                failures.append(f"{name}: {type(outcome).__name__}: {outcome}")
                told.run_ended(name, "failed: " + failures[-1])
            else:
                runs[key] = Run(work[key].settings, *outcome)
                trouble = _keep(folder, key, runs[key])
                if work[key].resume is not None and not trouble:
                    work[key].resume.unlink(missing_ok=True)
                told.run_ended(f"{name}, {runs[key].seconds:.1f} s", trouble)
    ended = [runs[key] for key in keys if key in runs]
    if failures:
        raise SweepError(f"{len(failures)} of {len(work)} runs failed. {'; '.join(failures)}", ended)
    return ended


def _items(what: str, values) -> Iterator:
    """The items of a list, or of anything that has some in an order."""
    with contextlib.suppress(Exception):  # of an __iter__
        if isinstance(values, Iterable) and not isinstance(values, (str, bytes, dict)):
            return iter(values)
    raise TypeError(f"{what} must be a list, got {shown(values)}")


def _named(chosen) -> dict[str, Any]:
    """One of the settings, if it is a dictionary of keyword arguments."""
    if not all(isinstance(name, str) for name in instance("sweep: settings: each", chosen, dict)):
        raise TypeError(f"sweep: settings must have names for keys, got {shown(chosen)}")
    return chosen


@dataclass(frozen=True)
class _Call:
    """A call as it is sent to a worker; gives the result and its seconds."""

    function: Callable
    settings: dict
    resume: Path | None
    parent: int

    def __call__(self) -> tuple[Any, float]:
        if os.getpid() != self.parent:
            set_num_threads(1)
        start = time.perf_counter() - seconds_spent(self.resume)
        result = self.function(**self.settings, **({} if self.resume is None else {"resume": self.resume}))
        seconds = time.perf_counter() - start
        try:
            return json.loads(json.dumps(result)), seconds
        except (TypeError, ValueError) as error:
            raise TypeError(f"the result is not what JSON can hold: {error}") from None


def _outcomes(work: dict[str, _Call], workers: Executor | None) -> Iterator[tuple[str, tuple | Exception]]:
    """Each key with what its call gave or raised, as they end."""
    if workers is None:
        for key, call in work.items():
            try:
                yield key, call()
            except Exception as error:
                yield key, error
        return
    futures = {workers.submit(call): key for key, call in work.items()}
    try:
        for future in as_completed(futures):
            try:
                outcome = future.result()
            except Exception as error:  # also a worker that died: then all that it and the others had is lost
                outcome = error
            yield futures[future], outcome
    finally:
        for future in futures:
            future.cancel()


class _Progress:
    """Runs as they end: a bar where somebody watches, a line each elsewhere, both on standard error.

    The bar also counts the parts of the runs that are `begun`, as their files say: so it needs nothing of an executor
    or a worker.
    """

    def __init__(self, total: int, ended: int, begun: list[Path], wanted: bool):
        self.total, self.ended, self.bar = total, ended, None
        self.lines = wanted and not watched()
        self.over, self.watcher = threading.Event(), None
        if wanted and watched():
            from tqdm import tqdm

            with contextlib.suppress(Exception):  # a terminal that fails costs the bar, not the sweep
                self.bar = tqdm(total=total, initial=ended, unit="run", dynamic_ncols=True, file=Terminal())
        if self.bar is not None and begun:
            self.watcher = threading.Thread(target=self._watch, args=(begun,), daemon=True)

    def _watch(self, begun: list[Path]) -> None:
        while not self.over.wait(LOOK):
            tenths = int(10 * sum(map(part_done, begun)) + 0.5)
            self.bar.n = min(self.ended + (tenths / 10 if tenths % 10 else tenths // 10), self.total)
            with contextlib.suppress(Exception):
                self.bar.refresh()

    def __enter__(self) -> "_Progress":
        if self.watcher:
            self.watcher.start()
        return self

    def __exit__(self, *exception) -> None:
        self.over.set()
        if self.watcher:
            self.watcher.join()
        if self.bar is not None:
            with contextlib.suppress(Exception):
                self.bar.close()

    def run_ended(self, name: str, trouble: str) -> None:
        """One more has ended; `trouble` is said in any case."""
        self.ended += 1
        if self.bar is not None:
            with contextlib.suppress(Exception):
                self.bar.set_postfix_str(name, refresh=False)
                self.bar.n = min(int(self.bar.n), self.ended)  # a whole number stays one: 2/2, not 2.0/2
                self.bar.update(self.ended - self.bar.n)
        if self.lines:
            tell(f"run {self.ended} of {self.total}: {name}")
        if trouble:
            tell(trouble)


# -- what is kept ------------------------------------------------------------------------------------------------------


def _key(function: Callable, settings: dict) -> str:
    """Names a run: the same for the same settings and the same source."""
    try:
        text = json.dumps([__version__, function.__qualname__, _sources(function), settings], sort_keys=True)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"sweep: settings must be what JSON can hold: {error}; got {shown(settings)}") from None
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _sources(function: Callable) -> list[str]:
    """The source of the function and of all that it refers to: what its result depends on.

    Of functions and classes in modules of its folder it is the source, of constants the value, and of what comes from
    elsewhere the name.
    """
    found: dict[tuple[str, str], str] = {}
    todo = [(function.__qualname__, function, function)]
    while todo:
        name, thing, user = todo.pop()
        thing = inspect.unwrap(thing) if callable(thing) else thing  # functools.cache and other decorators
        code = inspect.isfunction(thing) or inspect.isclass(thing)
        place = (_module(thing if code else user).stem, name)
        if place in found:
            continue
        if code and _module(thing).parent != _module(function).parent:
            found[place] = f"{thing.__module__}.{thing.__qualname__}"
        elif code:
            found[place] = _source(thing)
            methods = [thing] if inspect.isfunction(thing) else filter(inspect.isfunction, vars(thing).values())
            todo += [(n, m.__globals__[n], m) for m in methods for n in _names(m.__code__) if n in m.__globals__]
        elif isinstance(thing, (dict, list, tuple)):
            inside = thing.items() if isinstance(thing, dict) else enumerate(thing)
            found[place] = type(thing).__name__
            todo += [(f"{name}[{k!r}]", value, user) for k, value in inside]
        elif isinstance(thing, (bool, int, float, str, bytes, type(None))):
            found[place] = repr(thing)
    return [f"{module}.{name}: {found[module, name]}" for module, name in sorted(found)]


def _module(thing) -> Path:
    """The file of the module that a function or class was defined in."""
    return Path(getattr(sys.modules.get(thing.__module__), "__file__", None) or thing.__module__)


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _source(thing) -> str:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):  # typed at a prompt
        return thing.__code__.co_code.hex() if inspect.isfunction(thing) else repr(thing)


def _kept(folder: Path | None, key: str, settings: dict) -> Run | None:
    if folder is None:
        return None
    try:
        record = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
        return Run(settings, record["result"], float(record["seconds"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # not there, or not ours: run it
        return None


def _keep(folder: Path | None, key: str, run: Run) -> str:
    """Write the run down; what kept it from being written, if anything did: what was measured is still returned."""
    if folder is not None:
        try:
            with written_atomically(folder / f"{key}.json") as file:
                file.write((json.dumps(vars(run), indent=1) + "\n").encode())
        except OSError as error:
            return f"its result could not be kept: {error}"
    return ""


def _resume(function: Callable, folder: Path | None, key: str) -> Path | None:
    wanted = folder is not None and "resume" in inspect.signature(function).parameters
    return folder.absolute() / f"{key}.npz" if wanted else None
