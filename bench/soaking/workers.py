"""The processes that run the trials, forks of this one: what kills a trial's process is counted, and another takes its
place."""

import contextlib
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
        self.note, self.log = mmap.mmap(-1, NOTE), folder / "log"
        self.number, self.begun, self.ended = 0, 0.0, False
        self.process = FORK.Process(target=self._work, args=[its, kind, seed, folder], daemon=False)
        self.process.start()
        its.close()

    def _work(self, connection, kind: str, seed: int, folder: Path) -> None:
        os.setpgid(0, 0)  # Ctrl-C is for the parent, who then ends this group
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is to be interrupted are the processes of trials
        log = os.open(self.log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(log, stream)
        faulthandler.enable()
        parent = os.getppid()
        while True:
            while not connection.poll(1):
                if os.getppid() != parent:
                    return
            connection.send(outcome_of(kind, seed, connection.recv(), folder, self.note))

    def begin(self, number: int) -> None:
        self.number, self.begun = number, time.monotonic()
        self.connection.send(number)

    @property
    def dead(self) -> bool:
        """Its end of the connection may be open still, in processes of its trials; and it is not waited for yet, see
        `end`."""
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def lost(self, hangs: bool) -> Outcome:
        """End a worker that has died in its trial, or hangs in it, and say so."""
        self.end()
        text, note = self.log.read_text(errors="replace"), bytes(self.note).rstrip(b"\0").decode(errors="replace")
        fatal = next((line for line in text.splitlines() if line.startswith("Fatal")), last_line(text))
        what = "hangs" if hangs else ended(self.process.exitcode)
        return Outcome(self.number, 1, 1, f"the process {what} at: {note}. {fatal}".strip())

    def end(self) -> None:
        """With all processes of its trials, which are in its group."""
        if self.ended:
            return
        self.connection.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # before it is waited for: then its number is free for others
        self.process.kill()
        self.process.join()
        self.ended = True


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
                late, dead = time.monotonic() - worker.begun > PATIENCE, worker.dead
                if worker.connection not in ready and not late and not dead:
                    continue
                try:
                    outcome = worker.lost(hangs=not dead) if late or dead else worker.connection.recv()
                except (EOFError, ConnectionError):  # it has died since
                    outcome = worker.lost(hangs=False)
                number = next(left, None)
                if worker.ended or number is None:
                    worker.end()
                    self.workers.remove(worker)
                if number is not None:
                    (self._new() if worker.ended else worker).begin(number)
                yield outcome
