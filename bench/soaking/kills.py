"""Processes that are killed at random moments: SIGKILL, SIGINT, SIGTERM.

After each kill every file is whole or not there, and a training that goes on ends with the bits of one that was never
interrupted; the next writer has removed what the dead left. A command says in one line that it was interrupted, and
ends with 130.
"""

import itertools
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import fastbp
from fastbp import cli
from fastbp.datasets import RandomFlip
from fastbp.sweeps import grid, sweep

from .made import digest, of_archive, of_history, of_network, of_training
from .trials import Child, Fork, Spawn, Trial, ended, last_line

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
KILLS = 5  # in a trial: a reference training is made for all of them
TRIES = 8 * KILLS  # for a signal may come too late
RESULTS = ("history.json", "network.npz", "training.json", "training.npz", "training.png")


def kill(trial: Trial, start: Callable[[], Child], duration: float, check: Callable[[str, int, Child], None]) -> None:
    """Start and kill the process until it was hit often enough; what it leaves is checked each time, after which
    signal, or 0 where it had ended before."""
    hits = 0
    for _ in range(TRIES):
        number = trial.choose(*SIGNALS)
        moment = duration * trial.rng.uniform(0, 1) ** trial.choose(1, 2)
        child = start()
        hit = child.strike(number, moment)
        after = f"{number.name} after {moment * 1000:.0f} ms" if hit else "no signal"
        trial.note(after)
        child.wait()
        hits += hit
        trial.tried += hit
        check(after, number if hit else 0, child)
        if hits == KILLS:
            return


def expect_whole(trial: Trial, folder: Path, after: str) -> None:
    """Every file can be read, but for the parts that a killed process was writing."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.startswith("."):
            trial.expect(path.is_dir() or path.suffix == ".part", f"{after}: {path.name} is left")
            continue
        try:
            if path.suffix == ".npz":
                of_archive(path)
            elif path.suffix == ".json":
                json.loads(path.read_text())
        except (ValueError, OSError) as error:
            trial.expect(False, f"{after}: {path.name}: {error}")


# -- trainings by the library ------------------------------------------------------------------------------------------


def library(trial: Trial) -> None:
    (goes_on, goes_on, saves, sweeps)[trial.number % 4](trial)


def make_training(variant: int, folder: Path) -> dict:
    """The arguments of `fit`."""
    rng = np.random.default_rng(variant)
    x, labels = rng.normal(size=(240, 1, 8, 8)).astype(np.float32), rng.integers(0, 5, 240)
    splits = {"train": (x[:200], labels[:200]), "validation": (x[200:], labels[200:])}
    checkpoint = fastbp.Checkpoint(folder / "network.npz")
    if variant == 0:
        network, optimizer = fastbp.models.mlp([64, 30, 5], seed=1), fastbp.SGD(lr=0.05, momentum=0.9)
        more = [fastbp.StepDecay(3)]
    elif variant == 1:
        layers = [fastbp.Flatten(), fastbp.Linear(64, 20), fastbp.BatchNorm1d(20), fastbp.ReLU(), fastbp.Dropout(0.3)]
        network, optimizer = fastbp.Sequential(*layers, fastbp.Linear(20, 5), seed=2), fastbp.Adam(lr=0.01)
        more = [fastbp.EarlyStopping(patience=3), fastbp.RunningLoss(4), fastbp.CosineDecay(8), fastbp.WarmUp(2)]
        checkpoint.monitor = "validation_loss"
    else:
        network, optimizer = fastbp.models.cnn((1, 8, 8), 5, filters=4, hidden=10, dropout=0.2), fastbp.AdamW(lr=0.01)
        more = [fastbp.OneCycle(8), fastbp.EarlyStopping(monitor="train_loss", tolerance=1e-9)]
    given = {"network": network, "optimizer": optimizer, "callbacks": [checkpoint, *more]}
    augment = [RandomFlip()] if variant == 1 else None
    given["loss"] = fastbp.SoftmaxCrossEntropy()
    return {**splits, **given, "epochs": 8, "batch_size": 16, "seed": variant, "augment": augment, "progress": False}


def train(variant: int, folder: Path, threads: int) -> None:
    """Train, or go on; print the network of each epoch and what it ends with."""
    fastbp.set_num_threads(threads)
    given = make_training(variant, folder)
    given["callbacks"].append(lambda run: print(of_network(run.network), flush=True))
    history = fastbp.fit(**given, resume=folder / "training.npz")
    print(of_training(given["network"], given["optimizer"], history))


def warm(variant: int) -> None:
    """Have the kernels in this process, so that its forks have them: on one thread, for others are not forked."""
    fastbp.set_num_threads(1)
    given = make_training(variant, Path("nowhere"))
    fastbp.warmup(given["network"], given["loss"], given["optimizer"], given["train"])


def goes_on(trial: Trial) -> None:
    """A training with `resume` and a checkpoint, killed again and again."""
    variant, threads = int(trial.rng.integers(3)), int(trial.rng.integers(1, 3))
    if trial.rng.random() < 0.9:  # otherwise its first moments are the loading of kernels
        warm(variant)
    whole, folder = trial.folder / "whole", trial.folder / "killed"
    for path in (whole, folder):
        path.mkdir()

    def start(where: Path = folder) -> Fork:
        return Fork(lambda: train(variant, where, threads), trial.folder / "log")

    reference = start(whole)
    trial.expect(reference.wait() == 0, f"the training {ended(reference.status)}: {last_line(reference.output)}")
    duration, (*networks, expected) = time.monotonic() - reference.started, reference.output.split()
    saved = of_archive(whole / "network.npz")

    def check(after: str, number: int, child: Fork) -> None:
        fine = {0: (0,), signal.SIGINT: (0, 130)}.get(number, (0, -number))
        trial.expect(child.status in fine, f"{after}: it {ended(child.status)}: {last_line(child.output)}")
        expect_whole(trial, folder, after)
        if (path := folder / "network.npz").exists():
            trial.expect(of_network(fastbp.load(path)) in networks, f"{after}: the checkpoint is of no epoch")
        if child.status == 0:
            trial.expect(last_line(child.output) == expected, f"{after}: went on to another end")
            shutil.rmtree(folder)
            folder.mkdir()

    kill(trial, start, duration, check)
    last = start()
    trial.expect(last.wait() == 0, f"going on after the kills: it {ended(last.status)}: {last_line(last.output)}")
    trial.expect(last_line(last.output) == expected, "went on to another end")
    trial.expect(of_archive(folder / "network.npz") == saved, "the checkpoint is another one")
    trial.expect_files(folder, "network.npz", "training.npz", after="going on after the kills")


def saves(trial: Trial) -> None:
    """A process that saves version after version of a network, or a history: one of them is there, whole."""
    folder, versions = trial.folder / "saved", [0]
    network, history = fastbp.models.mlp([int(trial.rng.integers(1, 300)), 100, 10]), fastbp.History()
    as_history = trial.rng.random() < 0.3
    path = folder / ("history.json" if as_history else "network.npz")
    folder.mkdir()

    def save(version: int) -> None:
        if as_history:
            history.train_loss[:] = [float(version)] * 50
            history.to_json(path)
        else:
            network.parameter_vector[:] = version
            network.metadata = {"version": version}
            network.save(path)

    def save_all() -> None:
        for version in itertools.count(versions[-1]):
            save(version)

    def check(after: str, number: int, child: Fork) -> None:
        fine = 130 if number == signal.SIGINT else -number
        trial.expect(child.status == fine, f"{after}: it {ended(child.status)}: {last_line(child.output)}")
        expect_whole(trial, folder, after)
        if not path.exists():
            return
        if as_history:
            found = set(json.loads(path.read_text())["train_loss"])
        else:
            loaded = fastbp.load(path)
            found = {loaded.metadata["version"], *loaded.parameter_vector.tolist()}
        trial.expect(len(found) == 1 and min(found) >= versions[-1], f"{after}: the file holds {sorted(found)[:3]}")
        versions.append(int(min(found)))

    kill(trial, lambda: Fork(save_all, trial.folder / "log"), 0.2, check)
    save(versions[-1])
    trial.expect_files(folder, path.name, after="the next save")


def measure(width: int, seed: int, resume: Path | None = None) -> dict:
    """A run of a sweep."""
    rng, network = np.random.default_rng(seed), fastbp.models.mlp([6, width, 3], seed=seed)
    data = rng.normal(size=(60, 6)).astype(np.float32), rng.integers(0, 3, 60)
    given = {"epochs": 3, "batch_size": 20, "seed": seed, "progress": False, "resume": resume}
    history = fastbp.fit(network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD(lr=0.1), data, **given)
    return {"losses": history.train_loss, "bits": digest(network.parameter_vector)}


def sweeps(trial: Trial) -> None:
    """A sweep that keeps its results in a folder: none is lost, none is half, and all are the same."""
    folder, settings = trial.folder / "runs", grid(width=[3, 5], seed=[0, int(trial.rng.integers(1, 99))])
    jobs = 2 if trial.number % 32 == 31 else 1
    fastbp.set_num_threads(1)
    expected = [[run.settings, run.result] for run in sweep(measure, settings, progress=False, jobs=1)]

    def run_all() -> None:
        runs = sweep(measure, settings, folder, jobs, progress=False)
        print(json.dumps([[run.settings, run.result] for run in runs]))

    def check(after: str, number: int, child: Fork) -> None:
        fine = {0: (0,), signal.SIGINT: (0, 130)}.get(number, (0, -number))
        trial.expect(child.status in fine, f"{after}: it {ended(child.status)}: {last_line(child.output)}")
        expect_whole(trial, folder, after)
        if child.status == 0:
            trial.expect(json.loads(last_line(child.output)) == expected, f"{after}: other results")
            shutil.rmtree(folder)

    def start() -> Fork:
        return Fork(run_all, trial.folder / "log")

    first = start()
    trial.expect(first.wait() == 0, f"the sweep {ended(first.status)}: {last_line(first.output)}")
    duration = time.monotonic() - first.started
    check("no signal", 0, first)
    kill(trial, start, duration, check)
    last = start()
    trial.expect(last.wait() == 0, f"going on after the kills: it {ended(last.status)}: {last_line(last.output)}")
    trial.expect(json.loads(last_line(last.output)) == expected, "other results after the kills")
    left = [path.name for path in folder.iterdir() if path.suffix != ".json"]
    trial.expect(not left, f"the folder holds {left} beside the results")
    trial.expect(len(list(folder.iterdir())) == len(settings), "not as many results as runs")


# -- trainings by the command ------------------------------------------------------------------------------------------


def commands(trial: Trial) -> None:
    """`fastbp train`, killed, and gone on with by --resume. Every fourth is a command in an interpreter of its own, the
    others are forks that have imported the package."""
    rng, spawned = trial.rng, trial.number % 4 == 3
    optimizer = trial.choose("sgd", "sgd", "adam", "rmsprop")
    words = ["--model", trial.choose("softmax", "mlp", "cnn"), "--optimizer", optimizer, "--seed", int(rng.integers(5))]
    words += ["--epochs", int(rng.integers(2, 7)), "--batch-size", trial.choose(64, 256)]
    words += ["--dtype", trial.choose("float32", "float64")]
    script = Path(sys.executable).with_name("fastbp")
    interpreter = [script] if script.exists() and rng.random() < 0.5 else [sys.executable, "-m", "fastbp"]

    def start(folder: Path, *more: str) -> Child:
        arguments = ["train", *words, "--output", folder, *more]
        if spawned:
            return Spawn([*interpreter, *arguments], trial.folder / "log")
        return Fork(lambda: command(arguments), trial.folder / "log")

    whole, folder = trial.folder / "whole", trial.folder / "killed"
    reference = start(whole)
    trial.expect(reference.wait() == 0, f"fastbp train {ended(reference.status)}: {last_line(reference.output)}")
    duration, expected = time.monotonic() - reference.started, results(whole)

    def check(after: str, number: int, child: Child) -> None:
        expect_said(trial, after, number, child)
        expect_whole(trial, folder, after)
        if child.status == 0:
            trial.expect(results(folder) == expected, f"{after}: other results")
            shutil.rmtree(folder)

    def start_or_resume() -> Child:
        child = start(folder, *(["--resume"] if folder.exists() or rng.random() < 0.5 else []))
        child.ready(signal.SIGTERM)
        return child

    kill(trial, start_or_resume, duration, check)
    last = start(folder, "--resume")
    trial.expect(last.wait() == 0, f"going on after the kills: it {ended(last.status)}: {last_line(last.output)}")
    trial.expect(results(folder) == expected, "other results after the kills")
    trial.expect_files(folder, *RESULTS, after="going on after the kills")


def command(arguments: list) -> int:
    """The command in this process, which takes its signals as it does in one of its own."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return cli.main([str(word) for word in arguments])


def expect_said(trial: Trial, after: str, number: int, child: Child) -> None:
    """A command that was interrupted says so in its last line, and ends with 130; one that was killed says nothing."""
    said = last_line(child.output)
    trial.expect("Traceback" not in child.output, f"{after}: a traceback that ends with {said!r}")
    fine = {0: (0,), signal.SIGKILL: (0, -signal.SIGKILL)}.get(number, (0, 130))
    trial.expect(child.status in fine, f"{after}: it {ended(child.status)}: {said}")
    begun = child.output or isinstance(child, Spawn)  # a fork may be hit before the command begins
    if child.status == 130 and begun:
        trial.expect(said.startswith("fastbp: interrupted"), f"{after}: it says {said!r}")


def results(folder: Path) -> list:
    """All that a training's folder must hold in the end; the time that it took may differ."""
    state = of_archive(folder / "training.npz")
    state.pop("history.seconds")
    record = json.loads((folder / "training.json").read_text())
    figure = digest((folder / "training.png").read_bytes())
    return [of_archive(folder / "network.npz"), of_history(folder / "history.json"), state, record, figure]
