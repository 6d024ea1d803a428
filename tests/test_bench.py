"""The benchmark scripts run to the end with tiny settings and write what they promise."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).parent.parent / "bench"


def start(script: str, *arguments, **options) -> subprocess.Popen:
    command = [sys.executable, BENCH / script, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(BENCH.parent), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def run(script: str, *arguments) -> str:
    """What the script prints."""
    process = start(script, *arguments)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output


def load(path: Path) -> dict:
    """The JSON in a file; NaN and Infinity, which JSON has not, are refused."""
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in {path.name}"))


def assert_is_image(path: Path) -> None:
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


@pytest.mark.parametrize(
    "peers", [(), pytest.param(("torch", "jax"), marks=pytest.mark.peers)], ids=["alone", "beside peers"]
)
def test_training_step(tmp_path, peers):
    for name in peers:
        pytest.importorskip(name, reason=f"{name} is not installed")
    words = ("--workloads", "mlp-100", "--batches", 4, "--seconds", 0.01, "--rounds", 2)
    words += ("--markdown", "--peers", ",".join(peers))
    output = run("training_step.py", *words, "--json", tmp_path / "x.json", "--figure", tmp_path / "x.png")
    (row,) = load(tmp_path / "x.json")["rows"]
    assert row["sides"]["fastbp"]["median"] >= row["sides"]["fastbp"]["best"] > 0
    runs = row["sides"]["fastbp"]
    kinds = ("alone", "together") if peers else ("alone",)
    assert [len(runs[kind]) for kind in kinds] == [2] * len(kinds)
    assert runs["median"] == min(run["median"] for kind in kinds for run in runs[kind])
    assert 0 < row["of_peak"] < 1.5
    assert set(row["sides"]) == {"fastbp", *peers}
    for name in peers:
        assert row["sides"][name]["error"] < 1e-5
    assert "| 784-100-10 | 4 |" in output and "of peak" in output
    if peers:
        assert row["ratio"] > 0 and "geometric mean" in output
        assert_is_image(tmp_path / "x.png")


@pytest.mark.parametrize(
    "peers", [(), pytest.param(("torch", "jax", "onnx"), marks=pytest.mark.peers)], ids=["alone", "beside peers"]
)
def test_predictions(tmp_path, peers):
    """All sides give the same outputs, of a network of every kind of layer that the workloads have."""
    for name in ("torch", "jax", "onnxruntime", "onnx") if peers else ():
        pytest.importorskip(name, reason=f"{name} is not installed")
    words = ("--predict", "--workloads", "conv-bn,lenet,leaky-cnn,cuda-convnet,mlp-bn,mlp-tiny", "--batches", 3)
    words = words if peers else ("--predict", "--workloads", "mlp-tiny", "--batches", 3)
    words += ("--seconds", 0.001, "--peers", ",".join(peers), "--markdown")
    output = run("training_step.py", *words, "--json", tmp_path / "x.json")
    for row in load(tmp_path / "x.json")["rows"]:
        assert row["sides"]["fastbp"]["median"] > 0
        for name in peers:
            assert row["sides"][name]["error"] < 1e-5
    assert "One prediction in float32" in output and "| 4-32-16-4, tanh, Adam | 3 |" in output


@pytest.mark.peers
def test_every_workload_has_the_gradients_of_its_peers(monkeypatch):
    """Those of the three libraries, of a step of each workload without dropout, whose optimiser and loss differ too."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("jax", reason="JAX is not installed")
    monkeypatch.syspath_prepend(str(BENCH))
    import sides
    from training_step import difference
    from workloads import WORKLOADS

    for name in ("all-conv", "cuda-convnet", "lenet", "leaky-cnn", "mlp-tiny"):
        built = {side: sides.build(side, WORKLOADS[name], 2) for side in ("fastbp", "torch", "jax")}
        for side in built.values():
            side.step()
        results = {side: each.results() for side, each in built.items()}
        for side in ("torch", "jax"):
            assert difference(results["fastbp"], results[side]) < 2e-5


def test_kernels(tmp_path):
    words = ("--quick", "--seconds", 0.0001)
    output = run("kernels.py", *words, "--json", tmp_path / "x.json", "--figure", tmp_path / "x.png")
    result = load(tmp_path / "x.json")
    assert {"linear", "conv", "fused", "ReLU", "SGD"} <= {row["family"] for row in result["rows"]}
    assert result["limits"]["peak"] > 1 and all(rate > 0 for rate in result["limits"]["bandwidth"].values())
    assert "784→100, batch 4" in output
    assert_is_image(tmp_path / "x.png")


def test_start_up(tmp_path):
    words = ("--runs", 1, "--parts", "imports,steps", "--peers", "", "--workloads", "mlp-100")
    output = run("start_up.py", *words, "--json", tmp_path / "x.json")
    (step,) = load(tmp_path / "x.json")["first_steps"]
    assert step["kernels"] > 3 and step["cold"] > step["warm"][0] > 0
    assert "import fastbp" in output


def test_memory(tmp_path):
    words = ("--workloads", "mlp-100", "--batches", 4, "--steps", 2, "--peers", "")
    run("memory.py", *words, "--json", tmp_path / "x.json", "--figure", tmp_path / "x.png")
    (row,) = load(tmp_path / "x.json")["rows"]
    assert row["least"] == 4 * (3 * 79_510 + 4 * (784 + 100 + 100 + 10))
    assert row["fastbp"]["peak"] - row["fastbp"]["imported"] > 0
    assert_is_image(tmp_path / "x.png")


def test_scaling(tmp_path):
    words = ("--sweeps", "batch,width,depth,image,threads", "--points", 2, "--seconds", 0.001)
    output = run("scaling.py", *words, "--json", tmp_path / "x.json", "--figure", tmp_path / "x.png")
    assert list(load(tmp_path / "x.json")["sweeps"])[:4] == ["batch", "width", "depth", "image"]
    assert "linear from" in output
    assert_is_image(tmp_path / "x.png")


@pytest.fixture
def few_images(tmp_path, monkeypatch):
    """A data folder with an MNIST of random images."""
    rng = np.random.default_rng(0)
    (tmp_path / "mnist").mkdir()
    for stem, count in (("train", 200), ("t10k", 10)):
        for kind, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
            head = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
            numbers = rng.integers(0, 10, shape, np.uint8).tobytes()
            (tmp_path / "mnist" / f"{stem}-{kind}-ubyte").write_bytes(head + numbers)
    monkeypatch.setenv("FASTBP_DATA", str(tmp_path))


def test_epoch(tmp_path, few_images):
    words = ("--workloads", "mnist-cnn", "--batches", 64, "--fraction", 0.5)
    run("epoch.py", *words, "--json", tmp_path / "x.json")
    (row,) = load(tmp_path / "x.json")["rows"]
    losses = [run["loss"] for run in row["runs"].values()]
    assert row["runs"]["fastbp"]["images"] == 100
    assert max(losses) - min(losses) < 0.3


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("training_step.py", ("--workloads", "alexnet"), "unknown: alexnet"),
        ("training_step.py", ("--threads", "0"), "whole numbers above 0"),
        ("training_step.py", ("--peers", "onnx"), "ONNX Runtime only predicts: give --predict"),
        ("training_step.py", ("--rounds", "0"), "a whole number above 0"),
        ("training_step.py", ("--json", "no/such/folder/x.json"), "no/such/folder/x.json can't be written"),
        ("memory.py", ("--json", "."), "can't be written"),
        ("scaling.py", ("--figure", "x.doc"), "an image's name ends in one of"),
        ("epoch.py", ("--threads", "0"), "a whole number above 0"),
        ("memory.py", ("--steps", "0"), "a whole number above 0"),
        ("scaling.py", ("--points", "0"), "a whole number above 0"),
        ("start_up.py", ("--runs", "0"), "a whole number above 0"),
        ("epoch.py", ("--fraction", "2"), "--fraction"),
        ("scaling.py", ("--sweeps", "height"), "unknown: height"),
    ],
)
def test_wrong_options(script, words, message):
    process = start(script, *words)
    _, errors = process.communicate()
    assert process.returncode == 2 and message in errors and "Traceback" not in errors


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_loses_the_file_but_not_the_table():
    words = ("--workloads", "mlp-100", "--batches", 1, "--peers", "", "--seconds", 0.01, "--json", "/dev/full")
    process = start("training_step.py", *words)
    output, errors = process.communicate()
    assert process.returncode == 1 and "No space left" in errors and "Traceback" not in errors
    assert "mlp-100" in output


def test_interrupt():
    process = start("training_step.py", "--workloads", "mlp-100", "--seconds", 30, start_new_session=True)
    while not re.match("workload", line := process.stdout.readline()):
        assert line
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and errors == "interrupted\n"


def test_workloads_match_the_layers(monkeypatch):
    """Shapes and parameters of the description are those of fastbp's layers."""
    monkeypatch.syspath_prepend(str(BENCH))
    import sides
    from workloads import WORKLOADS

    for workload in WORKLOADS.values():
        network = sides.fastbp_network(workload)
        for layer, before, after in zip(network.layers, workload.shapes(), workload.shapes()[1:], strict=False):
            assert layer.output_shape(before) == after
