"""Several processes at one target, and targets that can't be written: two writers, full disks, closed folders, cold
starts."""

import contextlib
import ctypes
import json
import os
import resource
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import fastbp
from fastbp.kernels.jit import KernelCache

from .damage import COMPILED, Trained, kernels_in_use, small_training
from .kills import RESULTS, command, expect_whole, results
from .made import draw_network, of_network
from .trials import Fork, Lost, Trial, ended, last_line

SECONDS = 0.3  # that writers write against each other
NEW_USER, NEW_MOUNTS, PAGE = 0x10000000, 0x00020000, 4096  # of Linux
NOBODY = 65534

# -- two writers -------------------------------------------------------------------------------------------------------


def writers(trial: Trial) -> None:
    trial.tried = 1
    (of_files, of_files, of_files, of_trainings)[trial.number % 4](trial)


def of_files(trial: Trial) -> None:
    """Several processes save networks, or histories, to one path while others read it: each reads one of them,
    whole."""
    rng, count = trial.rng, int(trial.rng.integers(2, 4))
    as_histories = rng.random() < 0.3
    networks = [draw_network(rng).network for _ in range(count)]
    histories = [fastbp.History(train_loss=[float(k)] * int(rng.integers(1, 2000))) for k in range(count)]
    path, end = trial.folder / "it", time.monotonic() + SECONDS
    there = {history.to_json() for history in histories} if as_histories else set(map(of_network, networks))

    def write(k: int) -> None:
        while time.monotonic() < end:
            histories[k].to_json(path) if as_histories else networks[k].save(path)

    def read() -> None:
        while time.monotonic() < end:
            if path.exists():
                found = path.read_text() if as_histories else of_network(fastbp.load(path))
                if found not in there:
                    raise Lost("a reader found a file that nobody has written")

    logs = trial.folder / "logs"
    logs.mkdir()
    children = [Fork(lambda k=k: write(k), logs / str(k)) for k in range(count)] + [Fork(read, logs / "reader")]
    for child in children:
        trial.expect(child.wait() == 0, f"a writer or reader {ended(child.status)}: {last_line(child.output)}")
    read()
    trial.expect_files(trial.folder, "it", "logs", after="writing at once")


def of_trainings(trial: Trial) -> None:
    """Several times `fastbp train --output D` at once: one trains, the others say so in one line, with status 2, and
    change nothing."""
    rng, folder = trial.rng, trial.folder / "D"
    words = ["train", "--model", "softmax", "--epochs", 3, "--batch-size", 256, "--seed", int(rng.integers(9))]
    if rng.random() < 0.5:
        folder.mkdir()
    resume = ["--resume"] if rng.random() < 0.3 else []
    alone = Fork(lambda: command([*words, "--output", trial.folder / "alone"]), trial.folder / "log")
    trial.expect(alone.wait() == 0, f"fastbp train {ended(alone.status)}: {last_line(alone.output)}")
    children = []
    for k in range(rng.integers(2, 4)):
        children.append(Fork(lambda: command([*words, "--output", folder, *resume]), trial.folder / f"log-{k}"))
        time.sleep(rng.uniform(0, 0.05))
    statuses = [child.wait() for child in children]
    # with --resume, one that comes when another is done finds a training that has ended
    trial.expect(0 in statuses and set(statuses) <= {0, 2}, f"{len(children)} trainings in one folder: {statuses}")
    trial.expect(bool(resume) or statuses.count(0) == 1, f"{len(children)} trainings in one folder: {statuses}")
    for child in children:
        lines = child.output.strip().splitlines()
        fine = child.status == 0 or (len(lines) == 1 and lines[0].startswith("fastbp: ") and str(folder) in lines[0])
        trial.expect(fine, f"the one that does not train says {lines}")
    trial.expect(results(folder) == results(trial.folder / "alone"), "two trainings in one folder: other results")
    trial.expect_files(folder, *RESULTS, after="two trainings in one folder")


# -- full disks, and folders that are closed ---------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path, room: int) -> Iterator[None]:
    """A file system of its own for the folder, with so much room left: in a user namespace, where the system lets us
    have one."""
    libc, user, group = ctypes.CDLL(None), os.getuid(), os.getgid()
    if getattr(libc, "unshare", None) is None or libc.unshare(NEW_USER | NEW_MOUNTS):
        with small_files(folder, room):
            yield
        return
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with contextlib.suppress(OSError):
            Path(f"/proc/self/{name}").write_text(text)
    files = {"filler": bytes(PAGE), **{path.name: path.read_bytes() for path in folder.iterdir()}}
    size = sum(-(-len(content) // PAGE) * PAGE for content in files.values()) + room // PAGE * PAGE
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size}".encode()):
        with small_files(folder, room):
            yield
        return
    for name, content in files.items():
        (folder / name).write_bytes(content)
    yield


@contextlib.contextmanager
def small_files(folder: Path, room: int) -> Iterator[None]:
    """A limit to the size of files, at which writing fails as on a full disk (EFBIG for ENOSPC); it needs no rights."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield


@contextlib.contextmanager
def closed(folder: Path, room: int) -> Iterator[None]:
    """A folder that may not be written to. Root becomes nobody, for root may write everywhere."""
    folder.chmod(0o555)
    if os.geteuid() == 0:
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    yield


HOW = (small_disk, small_files, closed)


def disks(trial: Trial) -> None:
    """What can't be written is an error that names the file; what was there stays, and nothing is left beside it."""
    trial.tried = 1
    (fails, fails, goes_on_later, command_fails)[trial.number % 4](trial, trial.choose(*HOW))


def attempt(trial: Trial, how: Callable, folder: Path, room: int, write: Callable[[], None], path: Path) -> None:
    """Write, in a process for which the folder has no room: it must fail with an OSError that names the path."""

    def child() -> None:
        with how(folder, room):
            before = {path.name: path.read_bytes() for path in folder.iterdir()}
            try:
                write()
            except OSError as error:
                if str(path) not in (str(error.filename), str(error)):
                    raise Lost(f"{error!r} does not name {path.name}") from None
            else:
                raise Lost("it was written all the same")
            if {path.name: path.read_bytes() for path in folder.iterdir()} != before:
                raise Lost(f"of {sorted(before)} there is {sorted(os.listdir(folder))}, or other content")

    process = Fork(child, trial.folder / "log")
    trial.expect(process.wait() == 0, f"{how.__name__}, room for {room}: {last_line(process.output)}")


def fails(trial: Trial, how: Callable) -> None:
    """A network or a history, beside an older one or not."""
    rng, folder = trial.rng, trial.folder / "full"
    network, older = draw_network(rng).network, draw_network(rng).network
    history = fastbp.History(train_loss=[0.1] * int(rng.integers(10, 3000)))
    path, write = (folder / "it", history.to_json) if rng.random() < 0.3 else (folder / "it", network.save)
    folder.mkdir()
    write(path)
    room = int(rng.integers(path.stat().st_size))
    if rng.random() < 0.6:
        older.save(path)
    else:
        path.unlink()
    attempt(trial, how, folder, room, lambda: write(path), path)


def goes_on_later(trial: Trial, how: Callable) -> None:
    """A training with `resume` ends with the error; it goes on where there is room, to the same end."""
    rng, folder = trial.rng, trial.folder / "full"
    folder.mkdir()
    path = folder / "run.npz"
    Trained(path).fit(4)
    expected, room = Trained(path).fit(4), int(rng.integers(path.stat().st_size))
    path.unlink()
    if (epochs := int(rng.integers(0, 3))) > 0:
        Trained(path).fit(epochs)
    attempt(trial, how, folder, min(room, path.stat().st_size if epochs else room), lambda: Trained(path).fit(4), path)
    folder.chmod(0o755)
    trial.expect(Trained(path).fit(4) == expected, f"{how.__name__}: went on to another end")
    trial.expect_files(folder, "run.npz", after="going on")


def command_fails(trial: Trial, how: Callable) -> None:
    """`fastbp train` ends with 1 and one line, and goes on with --resume where there is room; a figure alone costs only
    a warning."""
    folder, room = trial.folder / "full" / "D", int(trial.rng.integers(8_192, 90_000))  # what it prints is a file too
    words = ["train", "--model", "mlp", "--epochs", 2, "--batch-size", 256, "--output", folder]
    alone = Fork(lambda: command([*words[:-1], trial.folder / "alone"]), trial.folder / "log")
    trial.expect(alone.wait() == 0, f"fastbp train {ended(alone.status)}: {last_line(alone.output)}")
    folder.mkdir(parents=True)

    def child() -> int:
        with how(folder, room):
            status = command(words)
            expect_whole(trial, folder, "a full disk")
            return status

    process = Fork(child, trial.folder / "log")
    process.wait()
    what, said = f"fastbp train, {how.__name__}, room for {room}", last_line(process.output)
    fine = process.status in (0, 1) and "Traceback" not in process.output
    trial.expect(fine, f"{what}: {ended(process.status)}: {said}")
    named = said.startswith("fastbp: ") and str(folder) in said
    trial.expect(process.status == 0 or named, f"{what}: it says {said!r}")
    folder.chmod(0o755)
    if process.status == 0 and not (folder / "training.json").exists():  # on a disk that is gone
        return
    last = Fork(lambda: command([*words, "--resume"]), trial.folder / "log")
    trial.expect(last.wait() == 0, f"{what}: going on later {ended(last.status)}: {last_line(last.output)}")
    trial.expect(results(folder) == results(trial.folder / "alone"), f"{what}: other results later")
    trial.expect_files(folder, *RESULTS, after=f"{what}, going on later")


# -- cold starts -------------------------------------------------------------------------------------------------------


def cold(trial: Trial) -> None:
    """Several processes that start at once without compiled kernels: all get the same bits, and each kernel is compiled
    once. One in four is killed on the way; a folder in which nothing can be kept costs time alone."""
    rng, kind = trial.rng, trial.number % 4
    trial.tried = 1
    folder, count = trial.folder / "cache", int(rng.integers(2, 4))
    folder.mkdir(mode=0o700)
    expected, _ = kernels_in_use(trial, "few")
    how = trial.choose(*HOW if nobody_imports() else HOW[:2]) if kind == 3 else None
    children = [Fork(lambda: start_cold(folder, how), trial.folder / f"log-{k}") for k in range(count)]
    if kind == 2:
        children[0].strike(signal.SIGKILL, rng.uniform(0.05, 3))
    compiled = 0
    for child in children:
        child.wait(COMPILED)
        if child is children[0] and child.status == -signal.SIGKILL and kind == 2:
            continue
        trial.expect(child.status == 0, f"a cold start {ended(child.status)}: {last_line(child.output)}")
        bits, its_own = json.loads(last_line(child.output))
        trial.expect(bits == expected, "a cold start gives other bits")
        compiled += its_own
    if how is not None:
        return
    kept = [path for path in folder.rglob("*") if path.suffix == ".nbc"]
    trial.expect(
        kind == 2 or compiled == len(kept),
        f"{compiled} kernels were compiled by {count} processes, {len(kept)} are kept",
    )
    others = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".nbc"]
    left = [path.name for path in others if path.name != "claims"]
    trial.expect(not left, f"{left} is left in the cache")


def nobody_imports() -> bool:
    """Can who is in a closed folder read Python's modules? Root's own may be closed to nobody."""
    folders = Path(os.__file__).resolve().parents
    return os.geteuid() != 0 or all(folder.stat().st_mode & 0o005 == 0o005 for folder in folders)


def start_cold(folder: Path, how: Callable | None) -> None:
    os.environ["FASTBP_CACHE_DIR"] = str(folder)
    with contextlib.nullcontext() if how is None else how(folder, 9_000), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that kernels are not kept
        bits = small_training("few")
    print(json.dumps([bits, KernelCache.compiled]))
