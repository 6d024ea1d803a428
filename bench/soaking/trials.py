"""One trial: its random numbers, its folder, what it has tried; and child processes, which may be killed, hang or
crash."""

import faulthandler
import mmap
import os
import re
import signal
import subprocess
import sys
import time
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

PATIENCE = 240  # seconds after which a child hangs: on a busy machine a cold cache is compiled in less
HELD_BACK = {signal.SIGINT, signal.SIGTERM}
NOTE = 200  # bytes of what a trial is at, for the case that it crashes


class Lost(Exception):
    """What did not survive: the message says what, `count` how many times."""

    def __init__(self, message: str, count: int = 1):
        super().__init__(message)
        self.count = count


class Trial:
    """A trial of a kind, by its number: the same seed, kind and number draw the same things.

    `rng` the generator · `folder` an empty one for the trial alone · `tried` how many times something was put at risk
    so far `number` also lets variants take turns"""

    def __init__(self, kind: str, seed: int, number: int, folder: Path, note: mmap.mmap | None = None):
        self.rng = np.random.default_rng([seed, zlib.crc32(kind.encode()), number])
        self.number, self.folder, self.tried, self._note = number, folder, 0, note

    def note(self, text: str) -> None:
        """Write down what comes next, where it is found after a crash."""
        if self._note is not None:
            self._note[:] = text.encode()[:NOTE].ljust(NOTE, b"\0")

    def expect(self, holds: bool, message: str) -> None:
        if not holds:
            raise Lost(message)

    def choose(self, *options):
        """One of the options."""
        return options[self.rng.integers(len(options))]

    def expect_files(self, folder: Path, *names: str, after: str) -> None:
        """Nothing but these is in the folder."""
        there = sorted(os.listdir(folder))
        self.expect(there == sorted(names), f"{after}: the folder holds {there}, not {sorted(names)}")


class Child:
    """A process under way. `poll` says its exit status, minus the signal that ended it, or None; `output` what it has
    printed."""

    def __init__(self, log: Path):
        self.log, self.started, self.status = log, time.monotonic(), None

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def ready(self, number: int) -> None:
        """Wait until it handles this signal, as far as the system tells: what comes before it is none of its own. The
        time before a strike is counted from then on."""
        while self.poll() is None and not handles(self.pid, number):
            time.sleep(0.002)
        self.started = time.monotonic()

    def strike(self, number: int, after: float) -> bool:
        """Send it a signal so many seconds after its start; whether it was still there."""
        while (left := self.started + after - time.monotonic()) > 0:
            if self.poll() is not None:
                return False
            time.sleep(min(left, 0.001))
        if self.poll() is not None:
            return False
        os.kill(self.pid, number)
        return True

    def wait(self, patience: float = PATIENCE) -> int:
        """Its exit status. One that does not end is lost."""
        end, nap = time.monotonic() + patience, 0.0005
        while self.poll() is None:
            if time.monotonic() > end:
                where = self.where()
                os.kill(self.pid, signal.SIGKILL)
                while self.poll() is None:
                    time.sleep(0.01)
                raise Lost(f"hangs: {where or last_line(self.output)}")
            time.sleep(nap)
            nap = min(2 * nap, 0.01)
        return self.status

    def where(self) -> str:
        """Where it is in its work, if it can tell."""
        return ""


class Fork(Child):
    """This process again: it calls `function` and ends with what that returns, 0 for None; 130 for an interrupt, 1 for
    an error, whose traceback it prints. Cheap, for all imports are made and all kernels there that this process has."""

    def __init__(self, function: Callable[[], int | None], log: Path):
        super().__init__(log)
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)  # until the child is where it ends with them
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._run(function)
            except BaseException:  # an interrupt in the last moment
                pass
            os._exit(130)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)

    def _run(self, function: Callable[[], int | None]) -> None:
        code = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            faulthandler.register(signal.SIGUSR1, sys.__stderr__)
            output = os.open(self.log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(output, stream)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
            code = function() or 0
        except KeyboardInterrupt:
            code = 130
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def where(self) -> str:
        os.kill(self.pid, signal.SIGUSR1)
        time.sleep(0.5)
        stack = self.output.partition("(most recent call first)")[2]
        return " < ".join(" ".join(line.split()) for line in stack.splitlines()[1:7])

    def poll(self) -> int | None:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status


class Spawn(Child):
    """A command in a process of its own."""

    def __init__(self, command: list, log: Path):
        super().__init__(log)
        with open(log, "wb") as output:
            streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
            words = [str(word) for word in command]
            self.process = subprocess.Popen(words, preexec_fn=heed_interrupts, **streams)
        self.pid = self.process.pid

    def poll(self) -> int | None:
        self.status = self.process.poll()
        return self.status


def heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def handles(pid: int, number: int) -> bool:
    """Has the process a handler for this signal?"""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    return bool(int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) >> (number - 1) & 1)


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""


def ended(status: int) -> str:
    """An exit status in words."""
    return f"died by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
