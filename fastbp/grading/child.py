"""The program of a submission's process: `python -I -S -B child.py SETTINGS`. It never imports fastbp.

It closes itself in, reads the submission, and then answers messages: one call each, until the pipe is closed.
The parent trusts nothing that comes from here, since a submission can change everything in this process; the
care taken (own references, a private copy of the builtins) is so that a submission which patches numpy or the
builtins hurts its own items only.
"""

import _lsprof
import _thread
import builtins
import functools
import gc
import importlib.machinery
import importlib.util
import inspect
import json
import linecache
import os
import random
import site
import sys
import time
import types

__builtins__ = dict(vars(builtins))  # for the functions below

PIPE_BROKEN = 97  # the exit status when the pipes do not work any more: the parent knows it
MESSAGE, FRAMES = 4_000, 8  # characters of an error message; lines of a traceback


def main() -> None:
    settings = json.loads(sys.argv[1])
    folder, requests, replies = settings["folder"], settings["requests"], settings["replies"]
    sys.argv[:] = [settings["main"]]
    sys.path.extend(settings["packages"])
    sys.stdout.reconfigure(errors="backslashreplace")
    site.setquit()  # -S leaves out exit() and quit()
    import numpy

    own = dict(vars(builtins))
    messages = _load("messages", settings["messages"], own)
    guard, notes, alone = _isolate(settings, _load("isolation", settings["isolation"], own))
    sys.path.insert(0, folder)  # only now: a submission may have a numpy.py
    default_rng = numpy.random.default_rng
    # what submissions draw from: the same numbers in every run, and in every call (Runner.call)
    numpy.random.default_rng = lambda seed=0: default_rng(0 if seed is None else seed)
    numpy.random.seed(0)  # noqa: NPY002
    random.seed(0)
    keep_alive = sys.modules["__main__"]  # its globals are this module's: they go when it goes
    sys.modules["__main__"] = types.ModuleType("__main__")
    Runner(settings, messages, guard, (notes, alone), requests, replies).serve()
    del keep_alive


def _load(name: str, path: str, own: dict) -> types.SimpleNamespace:
    """A module by its path, not to be found in sys.modules, with builtins of its own."""
    namespace = {"__name__": name, "__builtins__": own}
    exec(importlib.machinery.SourceFileLoader(name, path).get_code(name), namespace)
    return types.SimpleNamespace(**namespace)


def _isolate(settings: dict, isolation) -> tuple:
    """The audit hook's switch, what could not be had, and whether the kernel refuses every new process."""
    layers, folder, hidden, processes = (settings[name] for name in ("layers", "folder", "hidden", "processes"))
    readable = [path for path in settings["readable"] if os.path.exists(path)]
    isolation.die_with_parent(settings["lifeline"])
    notes = isolation.close_calls() if "seccomp" in layers else [isolation.NO_SECCOMP]
    alone = not notes
    notes += isolation.limit_resources(**settings["limits"], processes=None if alone else processes)
    notes += isolation.restrict_files(readable, folder, hidden) if "landlock" in layers else [isolation.NO_LANDLOCK]
    guard = isolation.watch(readable, folder, hidden, "fastbp") if "audit" in layers else isolation.Watch()
    return guard, notes, alone


class Runner:
    """Answers messages. What it calls later, it holds from before the submission is read."""

    def __init__(self, settings: dict, messages, guard, isolated: tuple[list[str], bool], requests: int, replies: int):
        self.folder, self.main = settings["folder"].rstrip("/") + "/", settings["main"]
        self.reply_bytes = settings["reply_bytes"]
        self.messages, self.guard, self.isolated = messages, guard, isolated
        self.requests, self.replies = requests, replies
        self.os_read, self.os_write, self.exit = os.read, os.write, os._exit
        self.threads, self.profiler, self.sleep = _thread._count, _lsprof.Profiler, time.sleep
        numpy = sys.modules["numpy"]
        self.array, self.empty, self.getline = numpy.ndarray, numpy.empty, linecache.getline
        self.seeds = ((numpy.random.set_state, numpy.random.get_state()), (random.setstate, random.getstate()))
        self.module: types.ModuleType | None = None
        self.kept: dict[int, object] = {}
        self.last_kept = 0

    def serve(self) -> None:
        answers = {"start": self.start, "import": self.read_submission, "call": self.call}
        while True:
            number, body = self.receive()
            try:
                reader = self.messages.Reader(body, self.handle)
                kind = reader.read()
                answer = answers[kind](reader, number)
            except MemoryError:
                answer = self.failure(number, "memory", "used more memory than is allowed")
            except RecursionError:
                answer = self.failure(number, "raised", "RecursionError: maximum recursion depth exceeded")
            except BaseException as error:  # an object of the submission's, or its signal handler, got in between
                answer = self.failure(number, "value", f"{type(error).__name__}: {self.text(error)}")
            self.send(answer)

    def receive(self) -> tuple[int, memoryview]:
        """The next message's number and body. The parent sends one and waits: all there is to read belongs to it."""
        data, needed = bytearray(), self.messages.HEADER.size
        headless = True
        while len(data) < needed:
            try:
                part = self.os_read(self.requests, 1 << 16 if headless else min(needed - len(data), 1 << 20))
            except OSError:
                self.exit(PIPE_BROKEN)
            if not part:
                self.exit(0)  # the parent has gone
            data += part
            if headless and len(data) >= needed:
                _, number, size = self.messages.HEADER.unpack_from(data)
                needed += size
                headless = False
        return number, memoryview(data)[self.messages.HEADER.size :]

    def send(self, message: bytes) -> None:
        view = memoryview(message)
        try:
            while view:
                view = view[self.os_write(self.replies, view) :]
        except OSError:
            self.exit(PIPE_BROKEN)

    def answer(self, number: int, *values) -> bytes:
        writer = self.messages.Writer(self.reply_bytes)
        for value in values:
            writer.write(value)
        return writer.message(number)

    def failure(self, number: int, kind: str, message: str) -> bytes:
        """An answer that begins with False; with None where a thread still runs: then the parent ends this child."""
        unfit = self.module is not None and self.threads() > self.base_threads
        return self.answer(number, None if unfit else False, kind, message[:MESSAGE])

    def handle(self, number: int):
        return self.kept[number]

    # -- the three messages

    def start(self, reader, number: int) -> bytes:
        return self.answer(number, True, *self.isolated)

    def read_submission(self, reader, number: int) -> bytes:
        name = self.main.removesuffix(".py")
        if not name.isidentifier() or name in sys.modules or name in sys.stdlib_module_names:
            name = "submission"  # a numpy.py must not become numpy
        spec = importlib.util.spec_from_file_location(name, self.folder + self.main)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
        except MemoryError:
            return self.failure(number, "memory", "used more memory than is allowed, while it was imported")
        except SystemExit as end:
            message = f"ended the process (SystemExit: {self.text(end)}) while it was imported"
            return self.failure(number, "exited", message)
        except BaseException as error:
            return self.failure(number, "import", self.describe(error))
        self.module = module
        gc.freeze()  # what is there now stays: no collection need look at it
        self.base_threads = self.threads()
        public = [(name, value) for name, value in list(vars(module).items()) if self.is_public(name, value)]
        return self.answer(number, True, {name: self.parameters(value) for name, value in public[: self.messages.KEYS]})

    def call(self, reader, number: int) -> bytes:
        name, keep, strided, count = reader.read(), reader.read(), reader.read(), reader.read()
        arguments, starts = [], []
        for _ in range(count):
            starts.append(reader.position)
            arguments.append(reader.read())
            if strided and isinstance(arguments[-1], self.array):
                arguments[-1] = self.not_contiguous(arguments[-1])
        starts.append(reader.position)
        before = list(arguments)
        for number_kept in reader.read() or ():
            self.kept.pop(number_kept, None)
        if name not in self.module.__dict__:
            return self.failure(number, "missing", f"{name} is not defined")
        function = self.module.__dict__[name]
        if not callable(function):
            message = f"{name} is not a function but of type {type(function).__name__}"
            return self.failure(number, "not callable", message)

        for put_back, state in self.seeds:
            put_back(state)
        profiler = self.profiler(builtins=False)
        self.profile(profiler.enable)
        try:
            result = function(*arguments)
        except MemoryError:
            return self.failure(number, "memory", f"{name} used more memory than is allowed")
        except SystemExit as end:
            return self.failure(number, "exited", f"{name} ended the process (SystemExit: {self.text(end)})")
        except BaseException as error:
            return self.failure(number, "raised", self.describe(error))
        finally:
            self.profile(profiler.disable)
        if self.threads() > self.base_threads and self.threads_stay():
            return self.failure(number, "timeout", f"{name} returned, but a thread that it started still runs")

        try:
            result = self.keep(name, result, keep)
        except ValueError as error:
            return self.failure(number, "value", str(error))
        changed = {}
        for i, argument in enumerate(before):
            if isinstance(argument, (self.array, dict, list)):
                writer = self.messages.Writer(self.reply_bytes, opaque=True)
                try:
                    writer.write(argument)
                    if writer.body() != bytes(reader.data[starts[i] : starts[i + 1]]):
                        changed[i] = argument
                except ValueError as error:
                    changed[i] = self.messages.Opaque(f"{type(argument).__name__}: {error}")
        writer = self.messages.Writer(self.reply_bytes)
        writer.write(True)
        try:
            writer.write(result)
        except MemoryError:
            raise
        except BaseException as error:  # a subclass of the submission's may do anything when it is asked for its items
            return self.failure(number, "value", f"{name} returned what cannot be graded: {self.text(error)}")
        writer.write(self.counts(profiler, function) or None)
        writer.opaque = True
        writer.write(changed or None)
        return writer.message(number)

    def not_contiguous(self, array):
        """The same numbers with gaps between them."""
        wide = self.empty((*array.shape, 2), array.dtype)[..., 0]
        wide[...] = array
        return wide

    def profile(self, switch) -> None:
        """Profiling is what the audit hook refuses to the submission."""
        self.guard.off = True
        switch()
        self.guard.off = False

    def threads_stay(self) -> bool:
        for _ in range(20):
            self.sleep(0.005)
            if self.threads() <= self.base_threads:
                return False
        return True

    def keep(self, name: str, result, positions):
        """`result` with handles at these positions, which are kept here."""
        if not positions:
            return result
        least = max(positions) + 1
        if not isinstance(result, (tuple, list)):
            raise ValueError(f"{name} returned one value ({type(result).__name__}), expected a tuple of {least}")
        if len(result) < least:
            raise ValueError(f"{name} returned a tuple of {len(result)}, expected {least}")
        result = list(result)
        for position in positions:
            self.last_kept += 1
            self.kept[self.last_kept] = result[position]
            result[position] = self.messages.Handle(self.last_kept)
        return tuple(result)

    def counts(self, profiler, function) -> dict[str, int]:
        """How often each function of the submission ran in the call, the called one itself left out."""
        counts: dict[str, int] = {}
        own = getattr(function, "__code__", None)
        for entry in profiler.getstats():
            code = entry.code
            own_code = isinstance(code, types.CodeType) and code.co_filename.startswith(self.folder)
            if own_code and len(counts) < self.messages.KEYS:
                times = entry.callcount - (code is own)
                if times:
                    counts[code.co_qualname] = counts.get(code.co_qualname, 0) + times
        return counts

    # -- the submission's functions

    def is_public(self, name: str, value) -> bool:
        """Functions of the submission, and what they were wrapped in; not numpy's, not classes."""
        if name.startswith("_") or isinstance(value, type) or not callable(value):
            return False
        while not isinstance(value, types.FunctionType) and hasattr(value, "__func__"):
            value = value.__func__  # a method
        for _ in range(10):  # what it was wrapped in
            if isinstance(value, types.FunctionType) and value.__code__.co_filename.startswith(self.folder):
                return True
            if not hasattr(value, "__wrapped__"):
                break
            value = value.__wrapped__
        if isinstance(value, types.FunctionType):
            return False
        home = getattr(sys.modules.get(type(value).__module__), "__file__", None) or ""
        wraps = isinstance(value, functools.partial) or type(value).__name__ == "vectorize"
        return wraps or home.startswith(self.folder)

    def parameters(self, function) -> list[str]:
        try:
            parameters = inspect.signature(function).parameters.values()
            return [f"*{p.name}" if p.kind == p.VAR_POSITIONAL else str(p.name) for p in parameters]
        except Exception:  # what a submission makes of its signature
            return []

    # -- messages

    def text(self, error: BaseException) -> str:
        try:
            return str(error).replace(self.folder, "")[:MESSAGE]
        except BaseException:
            return "?"

    def describe(self, error: BaseException) -> str:
        """The error and the lines of the submission that led to it."""
        name = type(error).__name__
        if isinstance(error, SyntaxError) and (error.filename or "").startswith(self.folder):
            head = [f"{name}: {error.msg}", f"  {self.short(error.filename)}, line {error.lineno}"]
            return "\n".join([*head, f"    {(error.text or '').strip()[:200]}"])
        text = self.text(error)
        lines, traceback, frames = [f"{name}: {text}" if text else name], error.__traceback__, []
        while traceback is not None:
            code = traceback.tb_frame.f_code
            if code.co_filename.startswith(self.folder):
                frames.append((code.co_filename, traceback.tb_lineno, code.co_name))
            traceback = traceback.tb_next
        if len(frames) > FRAMES:
            frames = [*frames[: FRAMES // 2], None, *frames[-FRAMES // 2 :]]
        for frame in frames:
            if frame is None:
                lines.append("  …")
            else:
                path, line, function = frame
                lines += [
                    f"  {self.short(path)}, line {line}, in {function}",
                    f"    {self.getline(path, line).strip()[:200]}",
                ]
        return "\n".join(lines)

    def short(self, path: str) -> str:
        return path[len(self.folder) :]


if __name__ == "__main__":
    main()
