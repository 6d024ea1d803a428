"""A submission's process, seen from the grader: its pipes, its deadlines, its folder, its end."""

import contextlib
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from . import messages
from .folders import FOLDER_FILES, copy_submission, main_file, remove, used
from .limits import Limits, SubmissionError

START_SECONDS = 60  # for Python and NumPy to start, before the submission is read: not the submission's time
WATCH_SECONDS = 0.25  # between two looks at the folder's size
PIPE_BYTES = 1 << 20
PIPE_BROKEN = 97  # child.py's exit status when its pipes do not work
HERE = Path(__file__).resolve().parent


class ChildProcess:
    """The process, its pipes and its folder."""

    def __init__(self, path: Path, main: str | None, limits: Limits, layers: Sequence[str]):
        self.limits, self.layers = limits, layers
        self.released: list[int] = []
        self.notes: list[str] = []
        self._alone = False  # the kernel refuses it every new process
        self._number, self._kept, self._printed_now, self._looked = 0, bytearray(), 0, 0.0
        self._open: list[int] = []
        self._process: subprocess.Popen | None = None
        self._mark = f"submission-{os.getpid()}-{os.urandom(8).hex()}"
        self.folder = Path(os.path.realpath(tempfile.mkdtemp(prefix="submission-")))
        try:
            copy_submission(path, self.folder)
            self._most_bytes = used(self.folder)[0] + limits.file_bytes
            self._begin(main_file(self.folder, main))
        except BaseException:
            self.end()
            raise

    @property
    def printed(self) -> str:
        return self._kept.decode("utf-8", "replace").replace(f"{self.folder}/", "")

    def _begin(self, main: str) -> None:
        child_requests, self._requests = self._pipe()
        self._replies, child_replies = self._pipe()
        self._output, child_output = self._pipe()
        child_lifeline, _ = self._pipe()
        limits = self.limits
        settings = {
            "folder": str(self.folder),
            "main": main,
            "requests": child_requests,
            "replies": child_replies,
            "lifeline": child_lifeline,
            "messages": str(HERE / "messages.py"),
            "isolation": str(HERE / "isolation.py"),
            "hidden": str(HERE.parent),
            "readable": readable(),
            "packages": packages(),
            "layers": self.layers,
            "limits": {
                "cpu_seconds": limits.cpu_seconds,
                "memory_bytes": limits.memory_bytes,
                "file_bytes": limits.file_bytes,
            },
            "processes": limits.processes,
            "reply_bytes": limits.reply_bytes,
        }
        folder = str(self.folder)
        threads = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB_MAXIMUM", "BLIS")
        environment = {
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": folder,
            "TMPDIR": folder,
            "MPLBACKEND": "Agg",
            "FASTBP_CHILD": self._mark,  # to find by it the processes that it may have started
            **{f"{library}_NUM_THREADS": "1" for library in threads},
        }
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-u", "-X", "utf8", str(HERE / "child.py"), json.dumps(settings)],
            stdin=subprocess.DEVNULL,
            stdout=child_output,
            stderr=child_output,
            pass_fds=(child_requests, child_replies, child_lifeline),
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
        for descriptor in (child_requests, child_replies, child_output, child_lifeline):
            self._close(descriptor)
        for descriptor in (self._requests, self._replies, self._output):
            os.set_blocking(descriptor, False)
        self._poll = select.poll()
        # The answer before the output: where an answer is ready, what was printed before it is seen in the same look.
        self._poll.register(self._replies, select.POLLIN)
        self._poll.register(self._output, select.POLLIN)
        message = messages.Writer(sys.maxsize)
        message.write("start")
        try:
            reader = messages.Reader(self.exchange(message, START_SECONDS, "the start of Python"))
            reader.read()
            self.notes, self._alone = reader.read(), reader.read()
        except SubmissionError as error:
            raise RuntimeError(f"Sandbox: Python did not start: {error.message}\n{self.printed}") from None

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        self._open += ends
        if sys.platform == "linux":
            import fcntl

            with contextlib.suppress(OSError):
                fcntl.fcntl(ends[0], fcntl.F_SETPIPE_SZ, PIPE_BYTES)  # large arrays cross with fewer changes of process
        return ends

    def _close(self, descriptor: int) -> None:
        self._open.remove(descriptor)
        os.close(descriptor)

    def take_released(self) -> list[int]:
        """The numbers of the handles that nobody holds any more."""
        released = self.released[:1000]
        del self.released[: len(released)]
        return released

    def waits(self) -> bool:
        """Is the child alive, with nothing on the pipe for answers?"""
        return all(descriptor != self._replies for descriptor, _ in self._poll.poll(0))

    def exchange(self, message: messages.Writer, seconds: float, what: str) -> memoryview:
        """Send the message and read the answer's body, within so many seconds."""
        deadline = time.monotonic() + seconds
        self._number = number = (self._number + 1) & 0xFFFFFFFF
        self._printed_now = 0
        unsent = memoryview(message.message(number))
        unsent = self._send(unsent)
        if unsent:
            self._poll.register(self._requests, select.POLLOUT)
        answer, needed = bytearray(), messages.HEADER.size
        while len(answer) < needed:
            left = deadline - time.monotonic()
            if left <= 0:
                raise SubmissionError("timeout", f"{what} did not end within {seconds:g} s")
            for descriptor, _ in self._poll.poll(1000 * min(left, WATCH_SECONDS) + 1):
                if descriptor == self._replies:
                    headless = len(answer) < messages.HEADER.size
                    part = self._receive(1 << 16 if headless else needed - len(answer) + 1)
                    if part == b"":
                        raise self._ended(what)
                    answer += part or b""
                    if headless and len(answer) >= messages.HEADER.size:
                        needed += self._announced(answer, number, what)
                    if len(answer) > needed:
                        raise SubmissionError(
                            "protocol", f"{what}: more was written to the grader's pipe than an answer"
                        )
                elif descriptor == self._output:
                    self._drain(what)
                elif unsent:
                    unsent = self._send(unsent)
                    if not unsent:
                        self._poll.unregister(self._requests)
            self._look(what)
        if unsent:
            raise SubmissionError("protocol", f"{what}: an answer came before the question was read")
        return memoryview(answer)[messages.HEADER.size :]

    def _send(self, data: memoryview) -> memoryview:
        try:
            return data[os.write(self._requests, data) :]
        except BlockingIOError:
            return data
        except OSError:  # nobody reads: the pipe for answers tells why
            return data[len(data) :]

    def _receive(self, size: int) -> bytes | None:
        try:
            return os.read(self._replies, min(size, PIPE_BYTES))
        except BlockingIOError:
            return None

    def _announced(self, answer: bytearray, number: int, what: str) -> int:
        mark, its_number, size = messages.HEADER.unpack_from(answer)
        if mark != messages.MARK or its_number != number:
            raise SubmissionError("protocol", f"{what}: something else than an answer was written to the grader's pipe")
        if size > self.limits.reply_bytes:
            raise SubmissionError(
                "protocol", f"{what}: an answer of {size} bytes, where {self.limits.reply_bytes} are allowed"
            )
        return size

    def _drain(self, what: str) -> None:
        """Take what was printed: the first part is kept, and too much in one call is an error."""
        while True:
            try:
                part = os.read(self._output, 1 << 16)
            except BlockingIOError:
                return
            if not part:
                self._poll.unregister(self._output)  # the submission closed it
                return
            self._kept += part[: max(0, self.limits.output_bytes - len(self._kept))]
            self._printed_now += len(part)
            if self._printed_now > self.limits.output_bytes:
                raise SubmissionError("output", f"{what} printed more than {self.limits.output_bytes} bytes")

    def _look(self, what: str) -> None:
        """Has the folder grown past the limit? Looked at now and then: the system limits single files only."""
        now = time.monotonic()
        if now - self._looked < WATCH_SECONDS:
            return
        self._looked = now
        size, files = used(self.folder)
        if size > self._most_bytes or files > FOLDER_FILES:
            raise SubmissionError(
                "output", f"{what} wrote more than {self.limits.file_bytes} bytes or {FOLDER_FILES} files"
            )

    def _ended(self, what: str) -> SubmissionError:
        """The pipe was closed. Why?"""
        try:
            status = self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            status = PIPE_BROKEN
        with contextlib.suppress(SubmissionError, KeyError):  # KeyError: the submission closed that one too
            self._drain(what)
        if status == PIPE_BROKEN:
            return SubmissionError("protocol", f"{what} closed the pipe to the grader")
        if status >= 0:
            return SubmissionError("exited", f"{what} ended the process (status {status})")
        if -status == signal.SIGXCPU:
            return SubmissionError("timeout", f"{what} went past {self.limits.cpu_seconds} s of processor time")
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        return SubmissionError("crashed", f"{what} crashed the process ({name})")

    def end(self) -> None:
        """Kill the child and whatever it started, close the pipes, remove the folder."""
        process = self._process
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if process.poll() is None or not self._alone:
                    os.killpg(process.pid, signal.SIGKILL)
            if not self._alone:
                _kill_marked(self._mark)
            process.wait()
            self._process = None
        while self._open:
            os.close(self._open.pop())
        remove(self.folder)


def packages() -> list[str]:
    """The folders that NumPy and SciPy are imported from."""
    found = [np.__file__]
    scipy = importlib.util.find_spec("scipy")
    if scipy is not None and scipy.origin:
        found.append(scipy.origin)
    return list(dict.fromkeys(str(Path(file).parent.parent) for file in found))


def readable() -> list[str]:
    """What Python and compiled packages read: the standard library, packages, libraries, the processor's kind."""
    paths = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *packages()]
    paths += [os.path.join(prefix, "lib") for prefix in {sys.base_prefix, sys.base_exec_prefix}]
    paths += [
        "/lib",
        "/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/etc/ld.so.cache",
        "/sys/devices/system/cpu",
        "/System/Library",
    ]
    return list(dict.fromkeys(os.path.realpath(path) for path in paths if path and os.path.exists(path)))


def _kill_marked(mark: str) -> None:
    """Kill the processes with this mark in their environment: those that have left the child's group.

    Again and again until there is none, since one may start another in between. Linux only.
    """
    wanted = f"FASTBP_CHILD={mark}".encode()
    for _ in range(100):
        found = False
        for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
            with contextlib.suppress(OSError):
                if name.isdigit() and wanted in Path("/proc", name, "environ").read_bytes().split(b"\0"):
                    os.kill(int(name), signal.SIGKILL)
                    found = True
        if not found:
            return
        time.sleep(0.01)
