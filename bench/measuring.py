"""What the benchmarks share: timing, the machine and its limits, child processes, tables, files.

Nothing heavy is imported before it is needed: a process that measures one library must not hold another.
"""

import argparse
import functools
import json
import os
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np

REST = 0.01  # seconds before each side's turn
CHAINS = 12  # independent sums of the peak loop: more than the 8 to 10 multiply–adds that a core has under way at once
CORES = Path("/sys/devices/system/cpu")


# -- timing ------------------------------------------------------------------------------------------------------------


def alternate(functions: dict[str, Callable], seconds: float, least: int = 9) -> dict[str, list[float]]:
    """Times of each function, warmed up and then called in turn in bursts.

    Each is called for about `seconds`, and at least `least` times. Before its turn there is a rest, for another
    library's threads to go to sleep (PyTorch's OpenMP keeps a core busy for 3.5 ms after its last operation), and a
    call that does not count: another one has left its data in the caches.
    """
    for function in functions.values():
        for _ in range(3):
            function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    end = time.perf_counter() + seconds * len(functions)
    while time.perf_counter() < end or len(next(iter(times.values()))) < least:
        for name, function in functions.items():
            if len(functions) > 1:
                time.sleep(REST)
                function()
            for _ in range(3):
                start = time.perf_counter()
                function()
                times[name].append(time.perf_counter() - start)
    return times


def summary(times: list[float]) -> dict[str, float]:
    return {"median": statistics.median(times), "best": min(times), "runs": len(times)}


# -- the machine -------------------------------------------------------------------------------------------------------


def processor() -> str:
    """The processor's name as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cores() -> list[int]:
    """The cores this process may use, one of each pair that shares a core first."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))

    def number_among_siblings(core: int) -> int:
        try:
            text = (CORES / f"cpu{core}/topology/thread_siblings_list").read_text()
        except OSError:
            return 0
        return [int(part) for part in text.replace("-", ",").split(",")].index(core)

    return sorted(cores, key=number_among_siblings)


def caches() -> dict[str, int]:
    """Bytes of L1 (data), L2 and L3 as one core sees them; common sizes where the system doesn't tell."""
    sizes = {"L1": 32 << 10, "L2": 512 << 10, "L3": 16 << 20}
    for folder in CORES.glob("cpu0/cache/index*"):
        level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            sizes[f"L{level}"] = int(size[:-1]) << {"K": 10, "M": 20}[size[-1]]
    return sizes


def machine(*libraries: str) -> dict:
    """Processor, cores, caches and versions, for the head of a table and the JSON."""
    versions = {name: metadata.version(name) for name in ("numpy", "numba", *libraries)}
    return {
        "processor": processor(),
        "cores": len(usable_cores()),
        "caches": caches(),
        "python": platform.python_version(),
        **versions,
    }


def describe(machine: dict) -> str:
    sizes = ", ".join(f"{name} {size_text(size)}" for name, size in machine["caches"].items())
    versions = ", ".join(f"{name} {version}" for name, version in list(machine.items())[3:])
    return f"{machine['processor']}, {machine['cores']} cores, {sizes}; {versions}"


@functools.cache
def _multiply_adds():
    """A compiled loop of CHAINS vector multiply–adds a turn that touches no memory, and its FLOPs a turn."""
    import numba
    from numba.core import types
    from numba.extending import intrinsic

    from fastbp.kernels.simd import lanes
    from fastbp.kernels.simd.emitter import I64, Emitter

    @intrinsic
    def turns(typingctx, count, a, b):
        def codegen(context, builder, signature, arguments):
            e = Emitter(context, builder, types.float32)
            count, a, b = arguments[0], e.repeat(arguments[1]), e.repeat(arguments[2])
            starts = [e.repeat(e.number(float(k))) for k in range(CHAINS)]  # equal sums would be computed once
            sums = e.loop(count, starts, lambda _, values: [e.multiply_add(value, a, b) for value in values])
            return builder.extract_element(functools.reduce(builder.fadd, sums), I64(0))

        return types.float32(types.int64, types.float32, types.float32), codegen

    loop = numba.njit(nogil=True)(lambda count, a, b: turns(count, a, b))
    return loop, 2 * CHAINS * numba.njit(lambda x: lanes(x))(np.empty(1, np.float32))


def peak(threads: int = 1) -> float:
    """The machine's GFLOP/s in float32 with all operands in registers, on `threads` threads: the best of many runs."""
    from concurrent.futures import ThreadPoolExecutor

    loop, flops = _multiply_adds()
    count, half = 1_000_000, np.float32(0.5)
    with ThreadPoolExecutor(threads) as pool:

        def run():
            list(pool.map(lambda _: loop(count, half, half), range(threads)))

        run()
        best = min(alternate({"": run}, 0.3)[""])
    return threads * count * flops / best / 1e9


@functools.cache
def _triad():
    import numba

    @numba.njit(fastmath=True)
    def triad(a, b, c, times):
        for t in range(times):
            factor = np.float32(t)  # differs, or one pass would do
            for i in range(a.size):
                a[i] = b[i] + factor * c[i]

    return triad


def bandwidth(size: int) -> float:
    """GB/s of a[i] = b[i] + s · c[i] in float32 on one thread; the three arrays, `size` bytes in all, count once."""
    triad = _triad()
    a, b, c = (np.zeros(max(size // 12, 1), np.float32) for _ in range(3))
    times = max(1, 2_000_000 // size)
    best = min(alternate({"": lambda: triad(a, b, c, times)}, 0.05)[""])
    return 12 * a.size * times / best / 1e9


# -- child processes ---------------------------------------------------------------------------------------------------


def child(
    command: list, threads: int | None = None, pinned: bool = True, quiet: bool = False, **environment: str
) -> str:
    """What a command prints to standard output; it must succeed. With `threads`, libraries are told to use so
    many, and unless `pinned` is False the process may use so many cores: XLA has no other setting. `quiet`
    keeps what it prints to standard error for the case that it fails."""
    command, variables = [str(word) for word in command], {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    if threads is not None:
        eigen = f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()}"
        variables |= {"OMP_NUM_THREADS": str(threads), "XLA_FLAGS": eigen}
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if pinned and threads is not None and before:
        os.sched_setaffinity(0, usable_cores()[:threads])  # the child inherits it
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE if quiet else None}
    try:
        # a group of its own, so that Ctrl-C does not make it print a traceback, and nothing of it is left when we end
        process = subprocess.Popen(command, env=variables, text=True, start_new_session=True, **streams)
    finally:
        if before:
            os.sched_setaffinity(0, before)
    try:
        output, errors = process.communicate()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    if process.returncode:
        raise SystemExit(f"{errors or ''}this failed with exit status {process.returncode}: {shlex.join(command)}")
    return output


def child_json(script: str, *arguments, threads: int | None = None, pinned: bool = True):
    """What a script prints as its last line, parsed."""
    return json.loads(child([sys.executable, script, *arguments], threads, pinned).splitlines()[-1])


def run(main: Callable[[], None]) -> None:
    """Call main; Ctrl-C ends it with one word, a closed pipe with none, a full disk with what it says."""
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        sys.exit(f"error: {error}")


# -- options, tables, files --------------------------------------------------------------------------------------------


def parser(doc: str, seconds: float | None = None, figure: bool = True) -> argparse.ArgumentParser:
    """The options that all scripts have."""
    options = argparse.ArgumentParser(description=doc.splitlines()[0])
    if seconds is not None:
        of_each = f"of timing for each figure (default: {seconds:g})"
        options.add_argument("--seconds", type=float, default=seconds, help=of_each)
    options.add_argument("--json", type=new_file, help="also write the figures to this file")
    if figure:
        options.add_argument("--figure", type=new_image, help="also draw them into this image file")
    return options


def new_file(text: str) -> Path:
    """The type of an option that takes a file to write; what can't be one is refused before anything is measured."""
    path = Path(text)
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} can't be written")
    return path


def new_image(text: str) -> Path:
    """The type of an option that takes an image file to write."""
    from fastbp.canvas import Figure

    kinds = Figure().canvas.get_supported_filetypes()
    if Path(text).suffix[1:].lower() not in kinds:
        raise argparse.ArgumentTypeError(f"{text}: an image's name ends in one of {', '.join(kinds)}")
    return new_file(text)


def one_of(known):
    """The type of an option that takes some of `known`, separated by commas."""

    def several(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
        return names

    return several


def whole_numbers(text: str) -> list[int]:
    """The type of an option that takes whole numbers above 0, separated by commas."""
    if not all(part.isdecimal() and int(part) for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"expected whole numbers above 0, separated by commas, got {text!r}")
    return [int(part) for part in text.split(",")]


def whole_number(text: str) -> int:
    """The type of an option that takes one whole number above 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


class Table:
    """Prints rows as they come. A column is "title:width", the first ones left-aligned by a negative width."""

    def __init__(self, *columns: str):
        titles, widths = zip(*(column.rsplit(":", 1) for column in columns), strict=True)
        self.widths = [int(width) for width in widths]
        self.row(*titles)
        print("-" * (sum(map(abs, self.widths)) + 2 * len(widths) - 2))

    def row(self, *cells) -> None:
        wide = zip(cells, self.widths, strict=True)
        padded = (f"{cell:<{-width}}" if width < 0 else f"{cell:>{width}}" for cell, width in wide)
        print("  ".join(padded).rstrip(), flush=True)


def time_text(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    for unit, size in (("s", 1), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.2f} {unit}"
    return f"{seconds / 1e-6:.1f} µs"


def size_text(size: float) -> str:
    for unit, bits in (("GB", 30), ("MB", 20), ("kB", 10)):
        if size >= 1 << bits:
            return f"{size / (1 << bits):.3g} {unit}"
    return f"{size:.0f} B"


def write_json(path: Path | None, content: dict) -> None:
    if path is not None:
        from fastbp.files import written_atomically

        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        with written_atomically(path) as file:
            file.write(text.encode())


def write_figure(path: Path, figure) -> None:
    """Write the figure in the format that the file's name ends in."""
    from fastbp.files import written_atomically

    with written_atomically(path) as file:
        figure.savefig(file, format=path.suffix[1:].lower(), dpi=130)


def new_figure(width: float, height: float, panels: tuple[int, int] = (1, 1)):
    """(figure, axes) without a window, the axes as an array of `panels`"""
    from fastbp.canvas import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(*panels, squeeze=False)
    for each in axes.flat:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(color="0.9", linewidth=0.8)
        each.set_axisbelow(True)
    return figure, axes
