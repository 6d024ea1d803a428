"""The processes that run the trials, forks of this one: what kills a trial's process is counted, and another takes its place."""

import faulthandler
import mmap
import os
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

from . import kinds
from .trials import NOTE, Lost, Trial, ended, last_line

PATIENCE = 1200  # seconds after which a trial hangs
FORK = get_context("fork")


class Outcome(NamedTuple):
    number: int
    tried: int
    lost: int
    message: str


def outcome_of(kind: str, seed: int, number: int, folder: Path, note: mmap.mmap | None = None) -> Outcome:
    """Run a trial, in a folder that is gone afterwards."""
    place = folder / f"{kind}-{number}"
    place.mkdir()
    place.chmod(0o711)
    trial = Trial(kind, seed, number, place, note)
    try:
        kinds.KINDS[kind].run(trial)
        return Outcome(number, trial.tried, 0, "")
    except Lost as lost:
        return Outcome(number, max(trial.tried, lost.count), lost.count, str(lost))
    except Exception as error:
        where = last_frame(error)
        return Outcome(number, max(trial.tried, 1), 1, f"{type(error).__name__}: {last_line(str(error))} ({where})")
    finally:
        shutil.rmtree(place, ignore_errors=True)


def last_frame(error: Exception) -> str:
    """Where an exception was raised: the last line of fastbp's or of the soak's."""
    traceback, where = error.__traceback__, ""
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if "site-packages" not in code.co_filename:
            where = f"{Path(code.co_filename).name}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return where


class Worker:
    """A process that runs one trial after the other."""

    def __init__(self, kind: str, seed: int, folder: Path):
        self.connection, its = FORK.Pipe()
        self.note, self.number, self.begun = mmap.mmap(-1, NOTE), None, 0.0
        self.log = folder / "log"
        self.process = FORK.Process(target=self._work, args=[its, kind, seed, folder], daemon=False)
        self.process.start()
        its.close()

    def _work(self, connection, kind: str, seed: int, folder: Path) -> None:
        os.setpgid(0, 0)  # Ctrl-C is for the parent, who then ends this group
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's job in the background ignores
        log = os.open(self.log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(log, stream)
        faulthandler.enable()
        self.connection.close()
        while True:
            try:
                number = connection.recv()
            except EOFError:  # the parent has ended
                return
            connection.send(outcome_of(kind, seed, number, folder, self.note))

    def begin(self, number: int) -> None:
        self.number, self.begun = number, time.monotonic()
        self.connection.send(number)

    def died(self) -> Outcome:
        """What is to be said of a worker that died in its trial."""
        self.process.join(5)
        text, note = self.log.read_text(errors="replace"), bytes(self.note).rstrip(b"\0").decode(errors="replace")
        status = self.process.exitcode
        fatal = next((line for line in text.splitlines() if line.startswith("Fatal")), last_line(text))
        what = "hangs" if status is None else ended(status)
        return Outcome(self.number, 1, 1, f"the process {what} at: {note}. {fatal}".strip())

    def end(self) -> None:
        for kill in (lambda: os.killpg(self.process.pid, signal.SIGKILL), self.process.kill):
            try:
                kill()
            except (ProcessLookupError, PermissionError):
                pass
        self.process.join()
        self.connection.close()


class Workers:
    """Some of them, for one kind, each with a folder of its own."""

    def __init__(self, kind: str, seed: int, folder: Path, count: int):
        self.kind, self.seed, self.folder, self.count = kind, seed, folder, count
        self.made = 0
        self.workers: list[Worker] = []

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exception) -> None:
        for worker in self.workers:
            worker.end()

    def _new(self) -> Worker:
        folder = self.folder / f"{self.kind}-{self.made}"
        folder.mkdir()
        folder.chmod(0o711)
        self.made += 1
        worker = Worker(self.kind, self.seed, folder)
        self.workers.append(worker)
        return worker

    def run(self, numbers: Iterable[int]) -> Iterator[Outcome]:
        """The outcome of each trial, as they come."""
        left = iter(numbers)
        for _, number in zip(range(self.count), left, strict=False):
            self._new().begin(number)
        while self.workers:
            ready = wait([worker.connection for worker in self.workers], timeout=1)
            for worker in list(self.workers):
                late = time.monotonic() - worker.begun > PATIENCE
                if worker.connection not in ready and not late:
                    continue
                try:
                    outcome = worker.connection.recv() if worker.connection in ready else worker.died()
                except EOFError:
                    outcome, late = worker.died(), True
                yield outcome
                if late:
                    self.workers.remove(worker)
                    worker.end()
                number = next(left, None)
                if number is not None:
                    (self._new() if late else worker).begin(number)
                elif not late:
                    self.workers.remove(worker)
                    worker.end()
