"""The coursework experiments of examples/: each runs with --quick, says what it measured, and goes on where it was."""

import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastbp.engine.threads import usable_cores

EXAMPLES = Path(__file__).parent.parent / "examples"
README = EXAMPLES.parent / "README.md"
# by the script's first word
DATA = {"notmnist": "notmnist", "mnist": "mnist", "learning": "mnist", "lenet": "mnist", "cifar10": "cifar10"}
SCRIPTS = {  # figures, and lines of the table that are reported elsewhere
    "notmnist_mlp": ({"rates", "networks", "loss", "accuracy"}, 5),
    "cifar10_mlp_depth": ({"loss", "accuracy"}, 4),
    "cifar10_cnn_variants": ({"activations", "learning_rates", "convolutions", "predictions", "confusion"}, 7),
    "mnist_linear": ({"binary", "weights", "digits"}, 10),
    "mnist_cnn": ({"sizes", "dropout", "filters", "confusion"}, 2),
    "cifar10_cnn": ({"accuracy", "overfitting", "confusion"}, 2),
    "cifar10_resnet": ({"loss", "accuracy", "confusion"}, 0),
    "learning_curves": ({"learning_curves", "gradients"}, 2),
    "mnist_activations": ({"layers1", "layers2"}, 0),
    "cifar10_optimizers": ({"batches", "rates", "adam", "tiny"}, 9),
    "cifar10_94": ({"accuracy", "layers"}, 1),
    "mnist_99": ({"accuracy", "seconds"}, 0),
    "lenet_epochs": ({"seconds"}, len({1, usable_cores()})),
}


def needs_data(script: str):
    folder = Path(os.environ.get("FASTBP_DATA", ""), DATA[script.split("_")[0]])
    there = "FASTBP_DATA" in os.environ and folder.is_dir()
    return pytest.mark.skipif(not there, reason=f"needs FASTBP_DATA with a folder {folder.name}")


@pytest.fixture(autouse=True)
def examples_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


def load(script: str):
    """The script as a module, which is known by name: what is pickled refers to it."""
    spec = importlib.util.spec_from_file_location(script, EXAMPLES / f"{script}.py")
    module = sys.modules[script] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("script", [pytest.param(name, marks=needs_data(name)) for name in SCRIPTS])
def test_a_script_shows_what_it_measured(script, tmp_path, capsys):
    figures, reported = SCRIPTS[script]
    module, arguments = load(script), ["--quick", "--jobs", "1", "--out", str(tmp_path)]
    module.main(arguments)
    printed = capsys.readouterr().out
    details, report = json.loads((tmp_path / "results.json").read_text()), (tmp_path / "results.md").read_text()
    assert sum(row["reported"] is not None for row in details["table"]) == reported
    assert any(row["headline"] for row in details["table"])
    for row in details["table"]:
        assert len(row["ours"]) == 1 and 0.05 < row["ours"][0] <= 1
        assert f"{row['what']}: {row['ours'][0]:.3f}" in printed and f"| {row['what']} |" in report
    assert details["about"]["quick"] and details["about"]["seeds"] == [0]
    assert all(run["seconds"] > 0 for run in details["runs"])
    assert {path.stem for path in tmp_path.glob("*.png")} == figures
    for figure in figures:
        assert f"]({figure}.png)" in report
        pixels = np.asarray(Image.open(tmp_path / f"{figure}.png").convert("L"))
        assert pixels.std() > 5 and (tmp_path / f"{figure}.png").stat().st_size < 200_000
    assert "--quick" in report and "nan" not in report and "{" not in report

    module.main(arguments)  # all is there already: only the report is made again
    again = json.loads((tmp_path / "results.json").read_text())
    # with their times
    assert details["runs"] and again["runs"] == details["runs"] and again["table"] == details["table"]


def numbers(folder: Path):
    return [(run["settings"], run["result"]) for run in json.loads((folder / "results.json").read_text())["runs"]]


def command(script: str, *arguments: str) -> list[str]:
    return [sys.executable, str(EXAMPLES / f"{script}.py"), "--quick", *arguments]


@needs_data("mnist_activations")
def test_an_interrupted_script_goes_on_and_jobs_do_not_change_the_numbers(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    first = command("mnist_activations", "--jobs", "2", "--out", str(two), "--seed", "3")
    process = subprocess.Popen(first, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(two.glob("runs/*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1 and f"interrupted; start it again with --out {two} to go on" in errors
    assert "Traceback" not in errors and not (two / "results.md").exists()
    kept = {path: path.read_bytes() for path in two.glob("runs/*.json")}
    for folder, jobs in ((two, "2"), (one, "1")):
        subprocess.run(
            command("mnist_activations", "--jobs", jobs, "--out", str(folder), "--seed", "3"), check=True, timeout=300
        )
    assert kept and all(path.read_bytes() == content for path, content in kept.items())
    assert numbers(one) == numbers(two) and len(numbers(one)) == 4


def test_wrong_options_are_said(tmp_path, capsys):
    module = load("experiment")
    for arguments, message in (
        (["--jobs", "0"], "--jobs 1 or above"),
        (["--seed", "-1"], "--seed must be 0 or above"),
        (["--quick", "--full"], "not allowed with"),
    ):
        with pytest.raises(SystemExit, match="2"):
            module.Experiment("x.py", "x", [*arguments, "--out", str(tmp_path / "out")])
        assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_runs_that_end_early_and_numbers_that_json_has_not(tmp_path):
    module = load("experiment")
    experiment = module.Experiment("x.py", "x", ["--out", str(tmp_path), "--seed", "0"])
    results = [
        {"train_loss": [1.0, 0.5, 0.2], "large": [[1] * 600] * 2},
        {"train_loss": [2.0, math.nan], "large": [1, 2]},
    ]
    runs = [module.Run({"seed": seed}, result, 30.0) for seed, result in enumerate(results)]
    setting = module.Setting({}, runs)
    x, values = setting.line("train_loss")
    assert x.tolist() == [1, 2, 3] and np.array_equal(values, [[1, 0.5, 0.2], [2, math.nan, math.nan]], equal_nan=True)
    experiment.runs = {str(run.settings): run for run in runs}
    experiment.row("both", [0.25, math.nan])
    experiment.finish()
    details = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert details["runs"][0]["result"] == {"train_loss": [1.0, 0.5, 0.2]} and details["about"]["minutes"] == 1
    assert details["runs"][1]["result"] == {"train_loss": [2.0, None], "large": [1, 2]}
    assert "1 of 2 runs ended because the training loss was no longer finite" in (tmp_path / "results.md").read_text()


def test_what_two_sweeps_have_in_common_is_counted_once(tmp_path, monkeypatch):
    module = load("experiment")
    monkeypatch.setattr(module, "sweep", lambda function, calls, *_: [module.Run(call, {}, 60.0) for call in calls])
    experiment = module.Experiment("x.py", "x", ["--out", str(tmp_path)])
    for settings in ([{"lr": 1}, {"lr": 2}], [{"lr": 2}, {"lr": 3}]):
        experiment.sweep(needs_data, settings)
    experiment.finish()
    assert "The 9 runs' times add up to 9.0 minutes" in (tmp_path / "results.md").read_text()


def test_mean_and_spread():
    module = load("experiment")
    assert module.spread([0.9, 0.92, 0.91]) == "0.910 (0.900 to 0.920)" and module.spread([0.25]) == "0.250"
    settings = [module.Setting({"lr": lr}, [module.Run({}, {"validation": v}, 1.0) for v in values])
                for lr, values in ((1, [0.1, 0.9]), (2, [0.6, 0.5]), (3, [0.7, 0.4]))]  # fmt: skip
    assert module.best(settings).settings == {"lr": 2} and math.isclose(settings[0].mean("validation"), 0.5)


def test_a_figure_that_cannot_be_saved_costs_nothing_else(tmp_path, capsys, monkeypatch):
    module = load("experiment")
    experiment = module.Experiment("x.py", "x", ["--out", str(tmp_path)])

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.plotting, "save", fail)
    experiment.figure("lines", None, "Lines")
    experiment.note("What was found.")
    assert "lines.png could not be saved" in capsys.readouterr().err and experiment.lines == ["What was found."]


# -- what is committed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_committed_results_belong_to_their_script(script):
    folder = EXAMPLES / "results" / script
    if not (folder / "results.md").exists():
        pytest.skip("its full run has not been made yet")
    report, details = (folder / "results.md").read_text(), json.loads((folder / "results.json").read_text())
    assert f"`python examples/{script}.py" in report and "--quick" not in report and not details["about"]["quick"]
    shown = set(re.findall(r"\]\((\w+)\.png\)", report))
    assert shown == {path.stem for path in folder.glob("*.png")} == SCRIPTS[script][0]
    assert f"The {len(details['runs'])} runs' times add up to {details['about']['minutes']:.1f} minutes" in report
    assert len(details["table"]) == len(re.findall(r"^\| .* \|$", report, re.MULTILINE)) - 2
    for row in details["table"]:
        assert re.search(rf"^\| {re.escape(row['what'])} \|.* {np.mean(row['ours']):.3f}", report, re.MULTILINE)


def test_readme_says_what_the_experiments_measured(monkeypatch):
    monkeypatch.chdir(EXAMPLES.parent)
    folders = [Path("examples", "results", script) for script in SCRIPTS]
    table = load("experiment").summary([folder for folder in folders if (folder / "results.json").exists()])
    assert table in README.read_text()
