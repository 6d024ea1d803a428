"""Files that are damaged: networks, trainings to go on with, and compiled kernels.

A damaged file is refused with a ValueError that names it, or read right. Nothing that the user has is changed by it, no
process dies of it, and no number is wrong. Compiled kernels are nobody's files but fastbp's: what is damaged there is
compiled again, unasked.
"""

import contextlib
import io
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import fastbp
from fastbp.kernels.jit import KernelCache

from .made import digest, draw_network, of_network, of_training
from .trials import Fork, Lost, Trial, ended, last_line

DAMAGES = 25  # of one file in a trial: to make the file takes longer than to read it
MARKS = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"\x93NUMPY")  # where what tells how to read the rest begins
COMPILED = 90  # seconds in which a training has compiled what it needs, on a busy machine too
CACHE = "fastbp-kernels-"  # how the folders of compiled kernels begin


# -- damage to bytes ---------------------------------------------------------------------------------------------------


def damaged(rng: np.random.Generator, content: bytes) -> tuple[str, bytes]:
    """What was done, and the content after it."""
    bits = [flip] * 3 + [flip_marked] * 2
    others = [cut, empty, zeros, other_bytes, leave_out, double, swap, append, text]
    changes = bits + others
    while True:
        changed = bytearray(content)
        what = changes[rng.integers(len(changes))](rng, changed)
        if changed != content:
            return what, bytes(changed)


def flip(rng, content: bytearray) -> str:
    places = [flip_bit(rng, content, int(rng.integers(len(content)))) for _ in range(rng.integers(1, 4))]
    return f"bits flipped in bytes {places}"


def flip_marked(rng, content: bytearray) -> str:
    """In the heads of the archive's parts, and of its arrays."""
    found = [at for mark in MARKS for at in places_of(mark, content)] or [0]
    at = found[rng.integers(len(found))]
    near = [min(at + int(rng.integers(130)), len(content) - 1) for _ in range(rng.integers(1, 4))]
    places = [flip_bit(rng, content, place) for place in near]
    return f"bits flipped in bytes {places}"


def places_of(mark: bytes, content: bytearray) -> list[int]:
    places, at = [], content.find(mark)
    while at >= 0:
        places.append(at)
        at = content.find(mark, at + 1)
    return places


def flip_bit(rng, content: bytearray, place: int) -> int:
    content[place] ^= 1 << int(rng.integers(8))
    return place


def cut(rng, content: bytearray) -> str:
    del content[int(rng.integers(len(content))) :]
    return f"cut to {len(content)} bytes"


def empty(rng, content: bytearray) -> str:
    content.clear()
    return "emptied"


def stretch(rng, content: bytearray) -> slice:
    first = int(rng.integers(len(content)))
    return slice(first, min(first + int(2 ** rng.uniform(0, 13)), len(content)))


def zeros(rng, content: bytearray) -> str:
    place = stretch(rng, content)
    content[place] = bytes(place.stop - place.start)
    return f"zeros in {place}"


def other_bytes(rng, content: bytearray) -> str:
    place = stretch(rng, content)
    content[place] = rng.bytes(place.stop - place.start)
    return f"other bytes in {place}"


def leave_out(rng, content: bytearray) -> str:
    place = stretch(rng, content)
    del content[place]
    return f"{place} left out"


def double(rng, content: bytearray) -> str:
    place = stretch(rng, content)
    content[place.start : place.start] = content[place]
    return f"{place} twice"


def swap(rng, content: bytearray) -> str:
    one, other = stretch(rng, content), stretch(rng, content)
    size = min(one.stop - one.start, other.stop - other.start)
    one, other = slice(one.start, one.start + size), slice(other.start, other.start + size)
    content[one], content[other] = content[other], content[one]
    return f"{one} and {other} exchanged"


def append(rng, content: bytearray) -> str:
    content += rng.bytes(int(rng.integers(1, 2000)))
    return "more bytes at the end"


def text(rng, content: bytearray) -> str:
    content[:] = b"<html>404</html>\n" * int(rng.integers(1, 100))
    return "another file"


# -- changes that no checksum tells ------------------------------------------------------------------------------------


def resealed(rng: np.random.Generator, content: bytes) -> tuple[str, bytes]:
    """The archive with one part changed, left out, renamed or added, all its checksums right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    names = list(parts)
    name, kind = names[rng.integers(len(names))], int(rng.integers(5))
    if kind == 0:
        del parts[name]
        what = f"without {name}"
    elif kind == 1:
        parts[f"{name[:-4]}x.npy"] = parts.pop(name)
        what = f"{name} renamed"
    elif kind == 2:
        parts["more.npy"] = parts[name]
        what = "one part more"
    elif kind == 3:
        array, what = another_array(rng, np.load(io.BytesIO(parts[name])))
        file = io.BytesIO()
        np.save(file, array)
        parts[name], what = file.getvalue(), f"{name} {what}"
    else:
        header = next(name for name in ("fastbp.npy", "training.npy") if name in parts)
        written = json.loads(str(np.load(io.BytesIO(parts[header]))))
        what = another_header(rng, written)
        file = io.BytesIO()
        np.save(file, np.array(json.dumps(written)))
        parts[header] = file.getvalue()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return what, file.getvalue()


def another_array(rng, array: np.ndarray) -> tuple[np.ndarray, str]:
    strange = [
        np.array(["a"]),
        np.array([b"a"]),
        np.array([1 + 2j]),
        np.zeros((2, 3), "M8[s]"),
        np.zeros(3, [("x", "f4")]),
        np.array([{"a": 1}], object),
        np.zeros((*array.shape, 2), np.float32),
        np.zeros(0, np.float32),
        array.astype("U30"),
        array.astype(object),
    ]
    made = strange[rng.integers(len(strange))]
    return made, f"as {made.dtype} {made.shape}"


def another_header(rng, header: dict) -> str:
    """Some value in it, at any depth, replaced by something else."""
    inside, path = header, []
    while True:
        keys = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
        key = keys[rng.integers(len(keys))]
        path.append(str(key))
        if isinstance(inside[key], (dict, list)) and inside[key] and rng.random() < 0.7:
            inside = inside[key]
            continue
        strange = (None, "x", -1, 10**30, 1.5, [], {}, [[]], True, "Sequential", {"type": "Layer"}, float("nan"))
        inside[key] = strange[rng.integers(len(strange))]
        return f"{'.'.join(path)} is {inside[key]!r}"


# -- networks, and trainings to go on with -----------------------------------------------------------------------------


def files(trial: Trial) -> None:
    of_a_network(trial) if trial.number % 2 else of_a_run(trial)


def of_a_network(trial: Trial) -> None:
    made, path, rng = draw_network(trial.rng), trial.folder / "network.npz", trial.rng
    made.network.metadata = {"data": "digits", "classes": list("0123456789"), "input_shape": [1, 8, 8]}
    made.network.save(path)
    content, before = path.read_bytes(), of_network(made.network)
    target = fastbp.load(path)
    for _ in range(DAMAGES):
        sealed = rng.random() < 0.4
        what, changed = (resealed if sealed else damaged)(rng, content)
        path.write_bytes(changed)
        trial.tried += 1
        trial.note(f"network, {what}")
        loaded = refused_or(path, what, lambda: fastbp.load(path))
        if loaded is not None and not sealed:
            trial.expect(of_network(loaded) == before, f"{what}: another network is loaded")
        with contextlib.suppress(ValueError, TypeError):
            target.load_state_dict(another_state(rng, target.state_dict()))
            target.load_state_dict(made.network.state_dict())
        trial.expect(of_network(target) == before, "load_state_dict failed and has changed the network")


def another_state(rng, state: dict):
    """A state_dict that is not the network's, nor perhaps any."""
    names = list(state)
    name, kind = names[rng.integers(len(names))], int(rng.integers(5))
    if kind == 0:
        del state[name]
    elif kind == 1:
        state["more"] = np.zeros(3)
    elif kind == 2:
        state[name] = another_array(rng, state[name])[0]
    elif kind == 3:
        state[name] = (None, "a", 3, [[1], [2, 3]], {}, object())[rng.integers(6)]
    else:
        return (None, "state", 3, [], list(state.items()), np.zeros(3))[rng.integers(6)]
    return state


def refused_or(path: Path, what: str, read: Callable):
    """What reading the damaged file gives; None where it is refused as it must be."""
    try:
        return read()
    except ValueError as error:
        if path.name not in str(error):
            raise Lost(f"{what}: {error!r} does not name {path.name}") from None
    except Exception as error:
        raise Lost(f"{what}: {type(error).__name__}: {last_line(str(error))}") from None
    return None


class Trained:
    """A short training, new each time, that goes on from a file."""

    DATA = np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32), np.random.default_rng(1).integers(0, 3, 24)

    def __init__(self, path: Path):
        layers = fastbp.Linear(6, 5), fastbp.BatchNorm1d(5), fastbp.Dropout(0.2), fastbp.Linear(5, 3)
        self.path, self.network, self.optimizer = path, fastbp.Sequential(*layers, seed=3), fastbp.Adam(lr=0.01)
        self.callbacks = [fastbp.EarlyStopping(patience=3), fastbp.RunningLoss(2), fastbp.CosineDecay(4)]

    def fit(self, epochs: int) -> str:
        given = {"batch_size": 7, "callbacks": self.callbacks, "progress": False, "resume": self.path}
        what = self.network, fastbp.SoftmaxCrossEntropy(), self.optimizer, self.DATA
        history = fastbp.fit(*what, validation=self.DATA, epochs=epochs, **given)
        return of_training(self.network, self.optimizer, history)

    def now(self) -> str:
        return digest(of_network(self.network), self.optimizer.state, self.optimizer.steps, self.optimizer.lr)


def of_a_run(trial: Trial) -> None:
    path, rng = trial.folder / "run.npz", trial.rng
    Trained(path).fit(2)
    content = path.read_bytes()
    expected = Trained(path).fit(4)
    for _ in range(DAMAGES):
        sealed = rng.random() < 0.4
        what, changed = (resealed if sealed else damaged)(rng, content)
        path.write_bytes(changed)
        trial.tried += 1
        trial.note(f"training to go on with, {what}")
        training = Trained(path)
        before = training.now()
        end = refused_or(path, what, lambda: training.fit(4))  # noqa: B023 -- called at once
        if end is None:
            trial.expect(training.now() == before, f"{what}: refused, and the network or the optimiser has changed")
            trial.expect(path.read_bytes() == changed, f"{what}: refused, and the file has changed")
        elif not sealed:
            trial.expect(end == expected, f"{what}: goes on to another end")


# -- compiled kernels --------------------------------------------------------------------------------------------------


LAYERS = {  # whose kernels compile fast, but for those of "linear"
    "few": lambda: [fastbp.Flatten(), fastbp.Tanh(), fastbp.LeakyReLU(), fastbp.LogSoftmax()],
    "many": lambda: [fastbp.AvgPool2d(2), fastbp.BatchNorm2d(2), fastbp.Tanh(), fastbp.Dropout(0.3), fastbp.Flatten(),
                     fastbp.LogSoftmax()],
    "linear": lambda: [fastbp.Flatten(), fastbp.Linear(128, 20), fastbp.ReLU(), fastbp.LogSoftmax()],
}  # fmt: skip


def small_training(kind: str) -> str:
    """Some layers, trained on one thread; the bits."""
    fastbp.set_num_threads(1)
    rng = np.random.default_rng(0)
    network, optimizer = fastbp.Sequential(*LAYERS[kind]()), fastbp.SGD(lr=0.01)
    x, labels = rng.normal(size=(20, 2, 8, 8)).astype(np.float32), rng.integers(0, 18, 20)
    history = fastbp.fit(network, fastbp.NLLLoss(), optimizer, (x, labels), epochs=2, batch_size=8, progress=False)
    return of_training(network, optimizer, history)


def in_a_child(trial: Trial, what: str, folder: Path | None, kind: str) -> tuple[str, int, list[Path]]:
    """The bits of the training in a process that uses this folder of kernels; how many it compiled, and the files it
    has read."""

    def train() -> None:
        read: list[str] = []
        sys.addaudithook(lambda event, of: read.append(str(of[0])) if event == "open" and CACHE in str(of[0]) else None)
        if folder is not None:
            os.environ["FASTBP_CACHE_DIR"] = str(folder)
        bits = small_training(kind)
        print(json.dumps([bits, KernelCache.compiled, read]))

    child = Fork(train, trial.folder / "log")
    status = child.wait(COMPILED)
    trial.expect(status == 0, f"{what}: the training {ended(status)}: {last_line(child.output)}")
    bits, compiled, read = json.loads(last_line(child.output))
    return bits, compiled, [Path(name) for name in dict.fromkeys(read)]


_whole: dict[str, tuple[str, list[Path]]] = {}


def kernels_in_use(trial: Trial, kind: str) -> tuple[str, list[Path]]:
    """The bits with whole kernels, and the files of these, in the user's own folder."""
    if kind not in _whole:
        in_a_child(trial, "whole kernels", None, kind)  # compiles what is not there
        bits, _, read = in_a_child(trial, "whole kernels", None, kind)
        _whole[kind] = bits, [path for path in read if path.suffix == ".nbc" and path.is_file()]
        trial.expect(bool(_whole[kind][1]), "no kernel is read from a cache")
    return _whole[kind]


def caches(trial: Trial) -> None:
    """A training with kernels of which some are damaged gives the same bits, and the next finds them whole again."""
    rng, kind = trial.rng, "linear" if trial.number % 10 == 9 else "many"
    expected, sources = kernels_in_use(trial, kind)
    root = trial.folder / "cache"
    folder = root / sources[0].parent.name
    for made in (root, folder):
        made.mkdir(mode=0o700)
    for source in sources:
        shutil.copy(source, folder / source.name)
    trial.tried += 1
    chosen = [sources[i].name for i in rng.permutation(len(sources))[: rng.integers(1, 4)]]
    done = [damage_kernel(rng, folder, name, sources) for name in chosen]
    if rng.random() < 0.1:  # the file by which processes agree who compiles what
        chosen.append("claims")
        done.append((damage_claims(rng, folder / "claims"), False))
    what = ", ".join(f"{name}: {damage}" for name, (damage, _) in zip(chosen, done, strict=True))
    trial.note(what)
    bits, _, _ = in_a_child(trial, what, root, kind)
    trial.expect(bits == expected, f"{what}: other bits")
    bits, compiled, _ = in_a_child(trial, f"{what}, second run", root, kind)
    trial.expect(bits == expected, f"{what}: other bits in the second run")
    mended = all(can_be for _, can_be in done)
    trial.expect(compiled == 0 or not mended, f"{what}: the second run compiles {compiled} again")
    left = [name for name in os.listdir(folder) if not name.endswith(".nbc") and name != "claims"]
    trial.expect(not left, f"{what}: {left} is left in the cache")


def damage_kernel(rng, folder: Path, name: str, sources: list[Path]) -> tuple[str, bool]:
    """What was done to the file, and whether a process can put a whole one in its place."""
    path, kind = folder / name, int(rng.integers(10))
    if kind == 0:
        other = folder / sources[rng.integers(len(sources))].name
        aside = folder / "aside"
        for source, target in ((path, aside), (other, path), (aside, other)):
            if source.exists():
                source.rename(target)
        return f"exchanged with {other.name}", True
    if kind == 1:
        path.unlink()
        path.mkdir()
        return "a folder", False
    if kind == 2:
        path.unlink()
        os.mkfifo(path)
        return "a FIFO", True
    if kind == 3:
        path.unlink()
        path.symlink_to(folder / "nowhere" if rng.random() < 0.5 else path)
        return "a link to nothing", True
    if kind == 4:
        path.unlink()
        return "gone", True
    what, changed = damaged(rng, path.read_bytes()) if path.is_file() and path.stat().st_size else ("emptied", b"")
    path.write_bytes(changed)
    return what, True


def damage_claims(rng, path: Path) -> str:
    kind = int(rng.integers(4))
    if kind == 0:
        path.mkdir()
        return "a folder"
    if kind == 1:
        os.mkfifo(path)
        return "a FIFO"
    if kind == 2:
        path.symlink_to(path.with_name("nowhere"))
        return "a link to nothing"
    path.write_bytes(rng.bytes(50))
    return "other bytes"
