"""The file from which an interrupted training goes on: `fit(resume=…)`."""

import errno
import functools
import hashlib
import inspect
import json
import os
from dataclasses import fields

import numpy as np

from .. import arguments
from ..archives import read_arrays
from ..arguments import kept, number, shown, text, whole
from ..files import write_arrays, written_atomically
from .callbacks import Callback

STRANGE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)  # what reading something else may raise
FORMAT = 1  # of the files; raised when an older fastbp could not read a newer one
SHOWN = 3  # differences in a message


class SavedTraining:
    """The state of a training in one .npz file, never pickle: `write` after every epoch, `restore` before the first.

    `training` says by name what must be the same for the file to fit. ValueError, before anything changes, for a file
    of another training, or that is none or damaged.
    """

    def __init__(self, path: str | os.PathLike, run, callbacks: list, augment: list, training: dict):
        self.path, self.run, self.callbacks = arguments.path("fit: resume", path), run, callbacks
        self.training = {name: str(value) for name, value in {**_parts(run), **training}.items()}
        told = [callback for callback in callbacks if isinstance(callback, Callback)]
        self.training["callbacks"] = str([type(callback).__name__ for callback in told])
        for k, callback in enumerate(told):
            if settings := type(callback).settings(callback):
                self.training[f"callback {k}"] = f"{type(callback).__name__}({_named(settings)})"
        self.training |= {f"change {k}": _change(change) for k, change in enumerate(augment)}
        self.header, self.arrays = self._read() if os.path.lexists(self.path) else (None, {})
        if self.header is None and not os.path.isdir(os.path.dirname(os.path.realpath(self.path))):
            raise FileNotFoundError(errno.ENOENT, "fit: resume: the folder is not there", self.path)

    def _read(self) -> tuple[dict, dict[str, np.ndarray]]:
        try:
            arrays = read_arrays(self.path)
            header = json.loads(str(arrays.pop("training")))
            version = header["format"]
            there, epochs = (dict(header["training"]), header["epochs"]) if version == FORMAT else ({}, 0)
            fine = version != FORMAT or sorted(arrays) == header["arrays"]  # also of names, which no checksum covers
            fine = fine and type(epochs) is int and epochs >= 0
        except STRANGE:
            fine = False
        if not fine:
            raise ValueError(f"fit: resume: {self.path} is not a training saved by fit, or it is damaged")
        if version != FORMAT:
            raise ValueError(f"fit: resume: this fastbp reads trainings of format {FORMAT}, {self.path} has {version}")
        other = [name for name in {**there, **self.training} if there.get(name) != self.training.get(name)]
        for kinds, each in (("callbacks", "callback "), ("augment", "change ")):  # other kinds say enough
            other = [name for name in other if kinds not in other or not name.startswith(each)]
        if other:
            said = [f"{name}: {there.get(name)} there, {self.training.get(name)} here" for name in other[:SHOWN]]
            more = f", and {len(other) - SHOWN} more" if len(other) > SHOWN else ""
            raise ValueError(f"fit: resume: {self.path} is of another training: {'; '.join(said)}{more}")
        if epochs > self.run.epochs:
            fewer = f"epochs={self.run.epochs} asks for fewer"
            raise ValueError(f"fit: resume: {self.path} has {epochs} epochs already, {fewer}")
        return header, arrays

    def restore(self) -> None:
        """The state of the file, if it was there, into the network, the optimiser, the history and the callbacks.
        ValueError, and network and optimiser as they were, where something in it does not fit them."""
        if self.header is None:
            return
        network, optimizer = self.run.network, self.run.optimizer
        before = network.state_dict(), optimizer.state, optimizer.steps, optimizer.lr
        frozen = [name for name, parameter in network.named_parameters.items() if not parameter.requires_grad]
        try:
            self._restore()
        except Exception as error:
            network.load_state_dict(before[0])
            _freeze(network, frozen)
            _, optimizer.state, optimizer.steps, optimizer.lr = before
            if isinstance(error, MemoryError):
                raise
            raise ValueError(f"fit: resume: {self.path} does not fit: {error}") from error

    def _restore(self) -> None:
        run, header = self.run, self.header
        run.network.load_state_dict(self._named("network."))
        if (frozen := header.get("frozen")) is not None:
            _freeze(run.network, frozen)
        like, vectors = run.network.parameter_vector, self._named("optimizer.")
        for name in set(vectors) & set(run.optimizer.vectors):
            if (vectors[name].shape, vectors[name].dtype) != (like.shape, like.dtype):
                raise ValueError(f"{name} is {shown(vectors[name])}, not {shown(like)}")
        run.optimizer.state = vectors
        run.optimizer.steps = whole("steps", header["steps"], least=0)
        run.optimizer.lr = number("lr", header["lr"], least=0)
        for name, figures in self._named("history.").items():
            if figures.dtype != np.float64 or figures.shape not in ((0,), (header["epochs"],)):
                raise ValueError(f"{name} is {shown(figures)}, not the figures of {header['epochs']} epochs")
            getattr(run.history, name)[:] = figures.tolist()
        run.history.stop_reason, run.epoch = text("stop_reason", header["stop_reason"]), header["epochs"]
        for k, callback in enumerate(self.callbacks):
            if isinstance(callback, Callback):
                callback.load_state_dict(self._named(f"callbacks.{k}."))

    def _named(self, prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): array for name, array in self.arrays.items() if name.startswith(prefix)}

    def write(self) -> None:
        """The state of the training as it is now into the file."""
        run, history = self.run, self.run.history
        states = {"network": run.network.state_dict(), "optimizer": run.optimizer.state}
        lists = [field.name for field in fields(history) if field.name != "stop_reason"]
        states["history"] = {name: np.array(getattr(history, name), np.float64) for name in lists}
        for k, callback in enumerate(self.callbacks):
            states[f"callbacks.{k}"] = callback.state_dict() if isinstance(callback, Callback) else {}
        named = [(f"{part}.{name}", value) for part, state in states.items() for name, value in state.items()]
        arrays = {name: np.asarray(value) for name, value in named}
        for name, array in arrays.items():
            if array.dtype.hasobject:
                raise TypeError(f"fit: resume: {name} is neither a number nor an array of numbers")
        header = {"format": FORMAT, "training": self.training, "epochs": run.epoch, "stop_reason": history.stop_reason}
        header["frozen"] = [name for name, p in run.network.named_parameters.items() if not p.requires_grad]
        header |= {"steps": int(run.optimizer.steps), "lr": float(run.optimizer.lr), "of": run.epochs}
        header["arrays"] = sorted(arrays)
        with written_atomically(self.path) as file:
            write_arrays(file, {"training": np.array(json.dumps(header)), **arrays})


def _freeze(network, frozen: list[str]) -> None:
    """Freeze the parameters of these names, and no others."""
    for name, parameter in network.named_parameters.items():
        parameter.requires_grad = name not in frozen


def epochs_done(path: str | os.PathLike) -> tuple[int, int]:
    """The epochs that a file of fit holds, and how many were asked for; (0, 0) for no file and any other."""
    try:
        header = json.loads(str(_saved(path, "training")))
        return int(header["epochs"]), int(header["of"])
    except (OSError, *STRANGE):
        return 0, 0


def part_done(path: str | os.PathLike) -> float:
    """How much of its training a file of fit holds, 0 to 1: epochs done by epochs asked for; 0 for any other file."""
    done, of = epochs_done(path)
    return min(done / max(of, 1), 1.0)


def seconds_spent(path: str | os.PathLike | None) -> float:
    """The seconds of the epochs that a file of fit holds; 0 for no file and any other."""
    try:
        return float(np.sum(_saved(path, "history.seconds")))
    except (OSError, *STRANGE):
        return 0.0


def _saved(path: str | os.PathLike, name: str) -> np.ndarray:
    """One array of a file, of which no more is read."""
    return read_arrays(path, name)[name]


def _change(change) -> str:
    """An augmentation with its settings: "RandomCrop(padding=4)"; a function's name."""
    if isinstance(change, functools.partial):
        return f"{_change(change.func)}({', '.join([*map(_shown, change.args), _named(change.keywords)])})"
    return change.__name__ if inspect.isroutine(change) else f"{type(change).__name__}({_named(kept(change))})"


def _named(settings: dict) -> str:
    return ", ".join(f"{name}={_shown(value)}" for name, value in settings.items())


def _shown(value) -> str:
    """A setting as text that is the same in another process."""
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:16]
        return f"{value.dtype} {value.shape} {digest}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_shown(item)}' for key, item in value.items())}}}"
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, os.PathLike)):
        return repr(value)
    if isinstance(value, (np.bool_, np.number)):
        return repr(value.item())
    return _change(value)


def _parts(run) -> dict:
    network = run.network
    return {
        **{f"layer {i}": repr(layer) for i, layer in enumerate(network.layers)},
        **{name: f"{array.dtype} {array.shape}" for name, array in network.state_dict().items()},
        "the network's seed": network.seed,
        "the network's winograd": network.winograd,
        "loss": repr(run.loss),
        "optimizer": repr(run.optimizer),
    }
