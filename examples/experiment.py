"""What the experiments of this folder share: options, the data, runs over seeds, the table, the figures and the notes.

    python examples/SCRIPT.py [--quick | --full] [--seed 0] [--jobs 2] [--out FOLDER]

--full, the default, is the setting that the coursework reports, with three seeds from --seed on; --quick is a few
images and epochs, to see that it works. --jobs runs are made at once, each on one thread (a single one on all); the
numbers do not depend on it. FOLDER (by default
fastbp-SCRIPT, or fastbp-SCRIPT-quick) gets results.md with the table and the notes, the figures, and results.json with
what was measured, but for large arrays, which are in its runs. A script that was interrupted goes on where it was when
it is started again with the same FOLDER.

    python examples/experiment.py FOLDER …

prints the headlines of the experiments in these folders as one table.
"""

import argparse
import functools
import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

import fastbp
from fastbp import plotting
from fastbp.datasets import Dataset, Split
from fastbp.engine.threads import usable_cores
from fastbp.files import written_atomically
from fastbp.sweeps import Run, SweepError, sweep

SEEDS = 3
QUICK_IMAGES = 1000
LARGEST = 500  # numbers of an array in results.json


def load(name: str, quick: bool = False) -> Dataset:
    """The data set of that name; the first thousand images of each split with `quick`."""
    return _first_images(name) if quick else getattr(fastbp.datasets, name)()


@functools.cache  # unpacking all of CIFAR-10 takes as long as training on a thousand images
def _first_images(name: str) -> Dataset:
    data = load(name)
    train, test = (Split(part.x[:QUICK_IMAGES].copy(), part.y[:QUICK_IMAGES]) for part in (data.train, data.test))
    return Dataset(name, train, test, data.classes)


class Clock(fastbp.Callback):
    """Seconds of training at the end of each epoch, without what is measured between epochs."""

    def on_train_begin(self, run):
        self.seconds, self.spent, self.last = [], 0.0, time.perf_counter()

    def on_batch_end(self, run, loss):
        now = time.perf_counter()
        self.spent, self.last = self.spent + now - self.last, now

    def on_epoch_end(self, run):
        self.seconds.append(self.spent)
        self.last = time.perf_counter()

    def state_dict(self):
        return {"seconds": np.array(self.seconds), "spent": self.spent}

    def load_state_dict(self, state):
        self.seconds, self.spent, self.last = state["seconds"].tolist(), float(state["spent"]), time.perf_counter()


def curves(history: fastbp.History) -> dict:
    """What `fit` measured, as lists, with the epoch (from 1) of the best validation accuracy and the accuracies there;
    at the last epoch where nothing was validated."""
    result = {name: values for name, values in vars(history).items() if name.endswith(("loss", "accuracy")) and values}
    chosen = history.validation_accuracy or range(len(history))
    result["epoch"] = int(np.argmax(chosen)) + 1 if len(history) else 0
    for split in ("train", "validation", "test"):
        values = getattr(history, f"{split}_accuracy")
        if values:
            result[split] = values[result["epoch"] - 1]
    return result


@dataclass(frozen=True)
class Setting:
    """The runs of one setting, one for each seed."""

    settings: dict
    runs: list[Run]

    def __getitem__(self, name: str) -> np.ndarray:
        """What the runs measured under that name, an axis for the seeds first."""
        return np.array([run.result[name] for run in self.runs])

    def mean(self, name: str) -> float:
        return float(self[name].mean())

    def line(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(epochs, values): epochs (P,) from 1 on, and what was measured at the end of each, (K, P) for K seeds; NaN
        after the end of a run."""
        measured = [run.result[name] for run in self.runs]
        epochs = max(map(len, measured))
        return np.arange(1, epochs + 1), np.array([values + [np.nan] * (epochs - len(values)) for values in measured])

    @property
    def diverged(self) -> int:
        """How many runs ended because the training loss was not finite."""
        return sum(not np.isfinite(run.result.get("train_loss", [])).all() for run in self.runs)

    @property
    def parameters(self) -> str:
        """The network's number of parameters, as the table shows it."""
        return f"{self.runs[0].result['parameters']:,}"


def best(settings: Sequence[Setting], name: str = "validation") -> Setting:
    """The setting with the largest mean of that measure; of equal ones the first."""
    return max(settings, key=lambda setting: setting.mean(name))


def spread(values: Sequence[float], digits: int = 3) -> str:
    """The mean over the seeds with the least and the largest: 0.911 (0.909 to 0.914)."""
    values = np.ravel(values)
    text = f"{values.mean():.{digits}f}"
    return text if len(values) == 1 else f"{text} ({values.min():.{digits}f} to {values.max():.{digits}f})"


class Experiment:
    """A script's options, and what it has to show: `sweep` makes runs, `row`, `figure` and `note` add to the report,
    and `finish` writes it."""

    def __init__(self, script: str, title: str, arguments: Sequence[str] | None = None):
        self.name, self.title = Path(script).stem, title
        parser = argparse.ArgumentParser(prog=f"{self.name}.py", description=title)
        size = parser.add_mutually_exclusive_group()
        size.add_argument("--quick", action="store_true", help="a few images and epochs, to see that it works")
        size.add_argument("--full", action="store_true", help="the reported setting (default)")
        seeds = f"the first of {SEEDS}; the only one with --quick and where runs are long (default: 0)"
        parser.add_argument("--seed", type=int, default=0, help=seeds)
        jobs = "runs at once, a thread each (default: one a core)"
        parser.add_argument("--jobs", type=int, default=usable_cores(), help=jobs)
        out = "folder for the results (default: fastbp-SCRIPT, or fastbp-SCRIPT-quick)"
        parser.add_argument("--out", type=Path, help=out)
        options = parser.parse_args(arguments)
        if options.seed < 0 or options.jobs < 1:
            parser.error("--seed must be 0 or above, --jobs 1 or above")
        self.quick, self.jobs = options.quick, options.jobs
        self.out = options.out or Path(f"fastbp-{self.name}" + "-quick" * self.quick)
        self.seeds = [options.seed + k for k in range(1 if self.quick else SEEDS)]
        given = sys.argv[1:] if arguments is None else arguments
        self.command = shlex.join(["python", f"examples/{self.name}.py", *given])
        self.rows: list[dict] = []
        self.lines: list[str] = []
        self.runs: dict[tuple[str, str], Run] = {}  # by function and settings
        self.start = time.perf_counter()
        self.out.mkdir(parents=True, exist_ok=True)

    def sweep(self, function: Callable, settings: Sequence[dict], seeds: Sequence[int] | None = None) -> list[Setting]:
        """Run `function(**setting, seed=…, quick=…)` for each setting and seed; a Setting for each."""
        seeds = self.seeds if seeds is None else seeds
        calls = [{**setting, "seed": seed, "quick": self.quick} for setting in settings for seed in seeds]
        try:
            runs = sweep(function, calls, self.out / "runs", self.jobs)
        except SweepError as error:
            sys.exit(str(error))
        except KeyboardInterrupt:
            sys.exit(f"\ninterrupted; start it again with --out {self.out} to go on")
        self.runs |= {(function.__name__, json.dumps(run.settings, sort_keys=True)): run for run in runs}
        K = len(seeds)
        return [Setting(setting, runs[k * K : (k + 1) * K]) for k, setting in enumerate(settings)]

    def row(
        self, what: str, ours: Sequence[float], reported: float | None = None, headline: bool = False, **more: str
    ) -> None:
        """A line of the table: what was measured, for each seed, beside what is reported.

        With `headline` it stands in README's table too.
        """
        values = [float(value) for value in np.ravel(ours)]
        self.rows.append({"what": what, "ours": values, "reported": reported, "headline": headline, **more})
        beside = "" if reported is None else f" (reported {reported})"
        print(f"{what}: {spread(values)}{beside}", flush=True)

    def figure(self, name: str, figure, caption: str) -> None:
        """Save a figure and show it in the report; one that can't be saved costs nothing else of the report."""
        try:
            plotting.save(figure, self.out / f"{name}.png")
        except Exception as error:
            print(f"{name}.png could not be saved: {error}", file=sys.stderr)
        else:
            self.lines.append(f"![{caption}]({name}.png)")

    def note(self, text: str) -> None:
        """A paragraph of the report."""
        self.lines.append(" ".join(text.split()))

    def finish(self) -> None:
        """Write results.md and results.json; the largest arrays stay in the folder's runs alone."""
        runs = list(self.runs.values())
        diverged = sum(Setting({}, [run]).diverged for run in runs)
        if diverged:
            self.note(f"{diverged} of {len(runs)} runs ended because the training loss was no longer finite.")
        about = {
            "script": self.name,
            "title": self.title,
            "command": self.command,
            "quick": self.quick,
            "seeds": sorted({run.settings["seed"] for run in runs}),
            "runs": len(runs),
            "minutes": sum(run.seconds for run in runs) / 60,
            "processor": processor(),
            "versions": {name: metadata.version(name) for name in ("fastbp", "numpy", "numba")},
            "python": platform.python_version(),
        }
        details = _plain({"about": about, "table": self.rows, "runs": [vars(run) for run in runs]})
        self._write("results.json", json.dumps(details, allow_nan=False) + "\n")
        report = [f"# {self.title}", self._table(), *self.lines, self._origin(about)]
        self._write("results.md", "\n\n".join(report) + "\n")
        took = time.perf_counter() - self.start
        print(f"{took:.0f} s; wrote {self.out / 'results.md'}, results.json and the figures")

    def _table(self) -> str:
        fixed = ("what", "ours", "reported", "headline")
        more = list(dict.fromkeys(name for row in self.rows for name in row if name not in fixed))
        header = ["", *(name.replace("_", " ") for name in more), "reported", "fastbp"]
        lines = [header, ["---"] * len(header)]
        for row in self.rows:
            reported = "" if row["reported"] is None else f"{row['reported']:g}"
            lines.append([row["what"], *(str(row.get(name, "")) for name in more), reported, spread(row["ours"])])
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def _origin(self, about: dict) -> str:
        seeds = f"seed {about['seeds'][0]}"
        if len(about["seeds"]) > 1:
            seeds = f"seeds {', '.join(map(str, about['seeds']))}"
            seeds += ": the mean, and the least and the largest; no range: one seed"
        versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
        return (
            f"`{self.command}`; {seeds}. The {about['runs']} runs' times add up to {about['minutes']:.1f} minutes on "
            f"{about['processor']}; Python {about['python']}, {versions}."
        )

    def _write(self, name: str, text: str) -> None:
        with written_atomically(self.out / name) as file:
            file.write(text.encode())


def _plain(value):
    """As JSON has it: None for what is not finite, nothing of large arrays."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items() if _count(item) <= LARGEST}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _count(value) -> int:
    """The numbers of an array as lists."""
    return sum(map(_count, value)) if isinstance(value, list) else int(not isinstance(value, dict))


def summary(folders: Sequence[str]) -> str:
    """README's table: the headlines of the experiments whose results.json is in the folders."""
    lines = ["| experiment | reported | fastbp | minutes |", "| --- | --- | --- | --- |"]
    for folder in map(Path, folders):
        details = json.loads((folder / "results.json").read_text())
        about, rows = details["about"], [row for row in details["table"] if row["headline"]]
        for row in rows:
            reported = "" if row["reported"] is None else f"{row['reported']:g}"
            what = f"[{about['title']}]({folder / 'results.md'}): {row['what']}"
            lines.append(f"| {what} | {reported} | {spread(row['ours'])} | {about['minutes']:.0f} |")
    return "\n".join(lines)


def processor() -> str:
    """The processor's name as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    print(summary(sys.argv[1:]))
