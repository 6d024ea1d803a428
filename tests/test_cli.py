"""The command line: what it prints, writes and refuses."""

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
from PIL import Image

import fastbp
import fastbp.plotting
from fastbp.cli import main

QUICK = ["train", "--model", "softmax", "--epochs", "2"]
FILES = ["history.json", "network.npz", "training.json", "training.npz", "training.png"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """network.npz of a convolutional network that knows the digits."""
    folder = tmp_path_factory.mktemp("trained") / "out"
    assert main(["train", "--epochs", "6", "--output", str(folder)]) == 0
    return folder / "network.npz"


def run(*arguments, **options):
    """`python -m fastbp …` in a process of its own."""
    command = [sys.executable, "-m", "fastbp", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def failed(capsys, code, *arguments):
    """The one line on standard error with which the command must end, exit status `code`."""
    assert main([str(argument) for argument in arguments]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("fastbp: ") and err.endswith("\n") and err.count("\n") == 1, err
    return err


def class_table(text):
    """Images, right ones and the accuracy of each class, as printed."""
    rows = re.findall(r"^(\d)\s+(\d+)\s+(\d+)\s+([\d.]+)%", text, re.MULTILINE)
    return {int(label): (int(images), int(right), float(share)) for label, images, right, share in rows}


def save_png(path, image, mode="L", size=None):
    """An image with values in [0, 1] as a file."""
    picture = Image.fromarray(np.round(np.asarray(image) * 255).astype(np.uint8)).convert(mode)
    (picture.resize(size, Image.Resampling.NEAREST) if size else picture).save(path)
    return path


# -- train -----------------------------------------------------------------------------------------------------------


@pytest.mark.portable
def test_train_writes_a_network_a_history_and_a_figure(capsys):
    assert main(QUICK) == 0
    out, err = capsys.readouterr()
    assert os.listdir() == ["fastbp-digits-softmax"] and sorted(os.listdir("fastbp-digits-softmax")) == FILES
    assert all(
        f"fastbp-digits-softmax{os.sep}{name}" in out for name in ("network.npz", "history.json", "training.png")
    )
    assert "epoch 2/2" in err and "1294 images to train on, 144 for validation, 359 for the test" in out
    history = json.loads(Path("fastbp-digits-softmax/history.json").read_text())
    assert history["epochs"] == 2 and len(history["validation_accuracy"]) == 2
    with Image.open("fastbp-digits-softmax/training.png") as figure:
        assert figure.format == "PNG" and min(figure.size) > 300


def test_the_tables_numbers_are_those_of_the_saved_network(capsys):
    main(QUICK)
    out = capsys.readouterr().out
    network, test = fastbp.load("fastbp-digits-softmax/network.npz"), fastbp.datasets.digits().test
    predicted = network.forward(test.x).argmax(axis=1)
    table = class_table(out)
    for label in range(10):
        of_class = predicted[test.y == label]
        images, right, share = table[label]
        assert (images, right) == (len(of_class), np.sum(of_class == label))
        assert share == pytest.approx(100 * right / images, abs=0.006)
    assert f"test accuracy {np.mean(predicted == test.y):.2%}" in out


def test_folders_are_numbered_and_nothing_is_overwritten(capsys):
    for _ in range(3):
        assert main([*QUICK[:-1], "1"]) == 0
    names = sorted(os.listdir())
    assert names == ["fastbp-digits-softmax", "fastbp-digits-softmax-2", "fastbp-digits-softmax-3"]
    assert len({os.stat(f"{name}/network.npz").st_ino for name in names}) == 3


def test_an_output_folder_with_a_network_is_refused(capsys, tmp_path):
    assert main([*QUICK, "--output", "a/b c"]) == 0
    before = (tmp_path / "a/b c/network.npz").read_bytes()
    capsys.readouterr()
    assert "already holds a network.npz" in failed(capsys, 2, *QUICK, "--seed", 1, "--output", "a/b c")
    assert (tmp_path / "a/b c/network.npz").read_bytes() == before


def test_an_output_that_is_a_file_is_an_error_that_names_it(capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "file" in failed(capsys, 1, *QUICK, "--output", "file")
    assert "file" in failed(capsys, 1, *QUICK, "--output", "file/below")
    assert (tmp_path / "file").read_text() == "mine"


def test_the_seed_decides_and_the_same_seed_gives_the_same_network(capsys):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert main(["train", "--model", "mlp", "--epochs", "1", "--seed", str(seed), "--output", name]) == 0
    a, b, c = (fastbp.load(f"{name}/network.npz").parameter_vector for name in "abc")
    assert a.tobytes() == b.tobytes() != c.tobytes()


def test_options_do_what_they_say(capsys):
    arguments = "--model mlp --epochs 1 --batch-size 50 --optimizer adamw --lr 0.02 --weight-decay 0.3"
    arguments += " --dtype float64 --seed 5"
    assert main(["train", *arguments.split(), "--output", "out"]) == 0
    data = fastbp.datasets.digits(dtype=np.float64)
    train, _ = fastbp.datasets.split(data.train, (0.9, 0.1), seed=5)
    network = fastbp.models.mlp([64, 100, 10], dtype=np.float64, seed=5)
    trainer = fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), fastbp.AdamW(lr=0.02, weight_decay=0.3))
    order = np.random.default_rng([5, 0]).permutation(len(train.y))
    for start in range(0, len(order), 50):
        chosen = order[start : start + 50]
        trainer.step(train.x[chosen], train.y[chosen])
    saved = fastbp.load("out/network.npz")
    assert saved.dtype == np.float64
    np.testing.assert_allclose(saved.parameter_vector, network.parameter_vector, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop", "adagrad"])
def test_every_optimizer_learns_with_its_default_rate(capsys, optimizer):
    assert main(["train", "--model", "mlp", "--epochs", "8", "--optimizer", optimizer, "--output", "out"]) == 0
    assert float(re.search(r"test accuracy ([\d.]+)%", capsys.readouterr().out)[1]) > 85


def test_a_batch_larger_than_the_data_trains_once_an_epoch(capsys):
    assert main([*QUICK, "--batch-size", "100000", "--output", "out"]) == 0
    assert json.loads(Path("out/history.json").read_text())["epochs"] == 2


def test_a_training_that_diverges_says_so_without_a_line_of_source_code():
    result = run("train", "--model", "mlp", "--lr", "1e30", "--epochs", "3", "--output", "out")
    assert "the loss is" in result.stderr and "lower --lr" in result.stderr
    assert ".py" not in result.stderr and "warnings.warn" not in result.stderr and "fit(" not in result.stderr


# -- predict ---------------------------------------------------------------------------------------------------------


def test_predict_without_images_repeats_the_test_sets_table(capsys, trained):
    assert main(["predict", str(trained)]) == 0
    out = capsys.readouterr().out
    network, test = fastbp.load(trained), fastbp.datasets.digits().test
    accuracy = np.mean(network.forward(test.x).argmax(axis=1) == test.y)
    assert f"test accuracy {accuracy:.2%}" in out and len(class_table(out)) == 10 and accuracy > 0.9


@pytest.mark.portable
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "1"])
@pytest.mark.parametrize("invert", [False, True])
def test_predict_reads_image_files_of_every_kind(capsys, trained, tmp_path, mode, invert):
    network, test = fastbp.load(trained), fastbp.datasets.digits().test
    images = np.round(test.x[:8, 0]) if mode == "1" else test.x[:8, 0]
    expected = network.forward(np.ascontiguousarray(images[:, None])).argmax(axis=1)
    paths = [save_png(tmp_path / f"{n}.png", 1 - image if invert else image, mode) for n, image in enumerate(images)]
    assert main(["predict", str(trained), *map(str, paths), *["--invert"] * invert]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(path) for path in paths]
    assert [int(line.split(": ")[1][0]) for line in lines] == expected.tolist()


def test_predict_prints_the_three_largest_probabilities(capsys, trained, tmp_path):
    image = np.round(fastbp.datasets.digits().test.x[3, 0] * 255) / 255
    assert main(["predict", str(trained), str(save_png(tmp_path / "a.png", image))]) == 0
    found = re.findall(r"(\d) ([\d.]+)%", capsys.readouterr().out.split("(")[1])
    scores = fastbp.load(trained).forward(image[None, None].astype(np.float32))[0].astype(np.float64)
    chances = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    best = np.argsort(-chances)[:3]
    assert [int(label) for label, _ in found] == best.tolist()
    np.testing.assert_allclose([float(share) for _, share in found], 100 * chances[best], atol=0.06)


def test_predict_resizes_larger_images(capsys, trained, tmp_path):
    images = fastbp.datasets.digits().test
    paths = [save_png(tmp_path / f"{n}.png", images.x[n, 0], size=(40, 56)) for n in range(20)]
    assert main(["predict", str(trained), *map(str, paths)]) == 0
    found = [int(line.split(": ")[1][0]) for line in capsys.readouterr().out.splitlines()]
    assert np.mean(found == images.y[:20]) > 0.8


def test_predict_reads_sixteen_bit_greyscale(capsys, trained, tmp_path):
    test = fastbp.datasets.digits().test
    for n in range(5):
        Image.fromarray(np.round(test.x[n, 0] * 65535).astype(np.uint16)).save(tmp_path / f"{n}.png")
    expected = fastbp.load(trained).forward(test.x[:5]).argmax(axis=1)
    assert main(["predict", str(trained), *(str(tmp_path / f"{n}.png") for n in range(5))]) == 0
    assert [int(line.split(": ")[1][0]) for line in capsys.readouterr().out.splitlines()] == expected.tolist()


def test_files_that_are_no_images_are_named(capsys, trained, tmp_path):
    whole = save_png(tmp_path / "whole.png", np.random.default_rng(0).random((60, 60)))
    for name, content in {"text.png": b"hello", "empty.png": b"", "cut.png": whole.read_bytes()[:1500]}.items():
        (tmp_path / name).write_bytes(content)
        assert name in failed(capsys, 1, "predict", trained, tmp_path / name)
    (tmp_path / "folder").mkdir()
    assert "folder" in failed(capsys, 1, "predict", trained, tmp_path / "folder")
    assert "nowhere.png" in failed(capsys, 1, "predict", trained, tmp_path / "nowhere.png")


def test_a_huge_image_is_refused_in_a_line(capsys, trained, tmp_path):
    Image.new("1", (20000, 20000)).save(tmp_path / "huge.png")
    assert "huge.png" in failed(capsys, 1, "predict", trained, tmp_path / "huge.png")


def broken_networks(folder, network):
    content = network.read_bytes()
    np.savez(folder / "other.npz", a=np.arange(3))
    for name, text in {
        "empty": b"",
        "text": b"hello",
        "cut": content[: len(content) // 2],
        "flipped": content[:2000] + bytes([content[2000] ^ 255]) + content[2001:],
    }.items():
        (folder / f"{name}.npz").write_bytes(text)
    return ["other.npz", "empty.npz", "text.npz", "cut.npz", "flipped.npz"]


@pytest.mark.parametrize("command", ["predict", "summary"])
def test_broken_network_files_are_named_in_a_line(capsys, trained, tmp_path, command):
    for name in broken_networks(tmp_path, trained):
        error = failed(capsys, 1, command, tmp_path / name)
        assert name in error and "unsafely" not in error  # NumPy's advice to trust a pickle
    assert "nowhere.npz" in failed(capsys, 1, command, tmp_path / "nowhere.npz")
    assert str(tmp_path) in failed(capsys, 1, command, tmp_path)


def test_a_lone_array_is_no_network_either(capsys, tmp_path):
    np.save(tmp_path / "array.npy", np.arange(3))
    assert "array.npy" in failed(capsys, 1, "predict", tmp_path / "array.npy")


@pytest.mark.parametrize("command", ["predict", "summary"])
def test_a_network_that_train_did_not_write_is_refused(capsys, tmp_path, command):
    fastbp.models.mlp([64, 10]).save(tmp_path / "own.npz")
    assert "not written by fastbp train" in failed(capsys, 1, command, tmp_path / "own.npz")


# -- check and summary -----------------------------------------------------------------------------------------------


@pytest.mark.portable
@pytest.mark.parametrize("model, tensors", [("softmax", 2), ("mlp", 4), ("cnn", 6)])
def test_check_prints_a_row_for_every_tensor(capsys, model, tensors):
    assert main(["check", "--model", model, "--samples", "5"]) == 0
    out = capsys.readouterr().out
    assert len(re.findall(r"\b\d\.(?:weight|bias)\b", out)) == tensors


def test_check_fails_where_a_gradient_is_wrong(capsys, monkeypatch):
    right = fastbp.ReLU.backward
    monkeypatch.setattr(fastbp.ReLU, "backward", lambda *args, **options: right(*args, **options) * 1.01)
    assert main(["check", "--model", "mlp", "--samples", "5"]) == 1


@pytest.mark.parametrize(
    "arguments, count",
    [
        (["--model", "lenet5", "--data", "mnist"], "61,706"),
        (["--model", "mlp", "--data", "mnist"], "79,510"),
        (["--model", "softmax", "--data", "cifar10"], "30,730"),
        ([], "30,230"),
    ],
)
def test_summary_counts_parameters(capsys, arguments, count):
    assert main(["summary", *arguments]) == 0
    assert f"{count} parameters" in capsys.readouterr().out


def test_summary_of_a_trained_network(capsys, trained):
    assert main(["summary", str(trained)]) == 0
    assert capsys.readouterr().out == fastbp.load(trained).summary((1, 8, 8)) + "\n"


# -- wrong arguments -------------------------------------------------------------------------------------------------


WRONG = [
    "",
    "fly",
    "train --epochs 0",
    "train --epochs -1",
    "train --epochs 1.5",
    "train --epochs many",
    "train --epochs",
    "train --batch-size 0",
    "train --lr 0",
    "train --lr -1",
    "train --lr nan",
    "train --lr inf",
    "train --lr fast",
    "train --weight-decay -0.1",
    "train --data letters",
    "train --model vgg",
    "train --optimizer lbfgs",
    "train --dtype float16",
    "train --seed -1",
    "train --seed x",
    "train --colour",
    "train surplus",
    "predict",
    "check --samples 0",
    "summary a b",
    "train --model lenet5 --data digits",
    "summary --model lenet5",
]


@pytest.mark.parametrize("arguments", WRONG)
def test_wrong_arguments_exit_2_with_one_line(capsys, arguments):
    failed(capsys, 2, *arguments.split())
    assert not os.listdir()


@pytest.mark.parametrize("arguments", [["train", "--lr", "a\nb"], ["train", "two\nlines"], ["train", "--data", "a\nb"]])
def test_wrong_arguments_with_line_breaks_are_one_line_too(capsys, arguments):
    failed(capsys, 2, *arguments)


@pytest.mark.parametrize("data", ["mnist", "notmnist", "cifar10"])
def test_missing_data_is_an_error_that_says_which_files_go_where(capsys, tmp_path, data):
    (tmp_path / "data").mkdir()
    error = failed(capsys, 1, "train", "--data", data, "--data-dir", tmp_path / "data")
    assert data in error and str(tmp_path / "data") in error and "not there" in error
    assert os.listdir() == ["data"]


def test_help_and_version_exit_0(capsys):
    for arguments, text in (
        (["--help"], "predict"),
        (["train", "--help"], "--batch-size"),
        (["--version"], fastbp.__version__),
    ):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 0 and text in capsys.readouterr().out


# -- in processes of their own ---------------------------------------------------------------------------------------


def started(*arguments, **options):
    command = [sys.executable, "-m", "fastbp", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def wait_for(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("waited for a minute in vain")


def test_ctrl_c_in_training_keeps_the_last_checkpoint_and_says_so(tmp_path):
    process = started("train", "--model", "mlp", "--epochs", "100000", "--output", "out")
    wait_for(lambda: (tmp_path / "out" / "training.npz").exists())  # the last file of an epoch
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    last = err.splitlines()[-1]
    assert process.returncode == 130 and "Traceback" not in err
    said = re.fullmatch(r"fastbp: interrupted. out/network.npz holds the network after epoch (\d+)", last)
    assert said and int(said[1]) >= 1
    assert sorted(os.listdir("out")) == ["history.json", "network.npz", "training.json", "training.npz"]
    assert np.isfinite(fastbp.load("out/network.npz").parameter_vector).all()


def test_ctrl_c_before_the_first_epoch_has_ended_says_that_nothing_is_saved(tmp_path, capsys, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(fastbp.Trainer, "step", interrupt)
    assert main([*QUICK, "--output", "out"]) == 130
    assert "nothing is saved" in capsys.readouterr().err.splitlines()[-1]


def test_ctrl_c_after_training_says_where_the_network_is(tmp_path, capsys, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(fastbp.cli.train_command, "_draw", interrupt)
    assert main([*QUICK, "--output", "out"]) == 130
    assert "network.npz" in capsys.readouterr().err.splitlines()[-1]


def test_a_reader_that_goes_away_is_no_traceback():
    for arguments in (["summary"], ["--help"]):
        process = started(*arguments)
        process.stdout.close()  # as `| head -0` does
        err = process.stderr.read()
        process.stderr.close()
        process.wait(timeout=60)
        assert err == "", arguments


@pytest.mark.portable
def test_python_m_and_the_installed_command_agree():
    result = run("summary", "--model", "softmax")
    assert result.returncode == 0 and "650 parameters" in result.stdout and result.stderr == ""
    result = run("train", "--epochs", "0")
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1


ONE_KERNEL = "import fastbp, numpy; print(fastbp.ReLU().forward(numpy.array([[-1.0, 2.0]])))"
PLAIN = {"NUMBA_DISABLE_JIT": "1"}  # a step's kernels need not be compiled to see where a training's files go


def clean(result):
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr and "Warning" not in result.stderr


def test_it_trains_without_a_home_and_with_nothing_to_write_but_the_output(tmp_path):
    (tmp_path / "file").write_text("")
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH") if name in os.environ}
    nowhere = str(tmp_path / "file" / "home")  # below a file: can't be made, not even by root
    env = {**kept, "HOME": nowhere, "FASTBP_CACHE_DIR": f"{nowhere}/cache"}
    clean(
        subprocess.run(
            [sys.executable, "-c", ONE_KERNEL], env=env, capture_output=True, text=True, timeout=120, check=False
        )
    )
    assert os.listdir() == ["file"]
    clean(run(*QUICK, env={**env, **PLAIN}))
    assert sorted(os.listdir()) == ["fastbp-digits-softmax", "file"]
    assert sorted(os.listdir("fastbp-digits-softmax")) == FILES


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_it_trains_for_a_user_that_the_system_does_not_know(home):
    """As `docker run --user 12345` has it: no entry in the list of users, and a HOME that helps no further."""
    code = """if True:
        import pwd, sys
        def unknown(uid):
            raise KeyError(f"getpwuid(): uid not found: {uid}")
        pwd.getpwuid = unknown
    """
    train = f"{code}    from fastbp.cli import main; sys.exit(main(sys.argv[1:]))"
    kept = {
        name: value for name, value in os.environ.items() if name not in ("HOME", "FASTBP_CACHE_DIR", "XDG_CACHE_HOME")
    }
    env = kept if home is None else {**kept, "HOME": home}
    for program, more in ((f"{code}    {ONE_KERNEL}", {}), (train, PLAIN)):
        command = [sys.executable, "-c", program, *QUICK]
        clean(subprocess.run(command, env={**env, **more}, capture_output=True, text=True, timeout=120, check=False))
    assert os.listdir() == ["fastbp-digits-softmax"]


@pytest.mark.parametrize("folder", ["größe", "a\udcffb"])
def test_a_folder_whose_name_the_terminal_cannot_show_is_no_traceback(folder):
    result = run(*QUICK, "--output", folder, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert "Traceback" not in result.stderr


def test_plain_ascii_output_is_enough(tmp_path):
    for arguments in (
        ["check", "--model", "softmax", "--samples", "2"],
        [*QUICK, "--output", "out"],
        ["train", "--help"],
    ):
        result = run(*arguments, env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
        assert result.returncode == 0, result.stderr


# -- real data -------------------------------------------------------------------------------------------------------


@pytest.mark.portable
@pytest.mark.skipif(not os.environ.get("FASTBP_DATA"), reason="FASTBP_DATA is not set: it names the folder with mnist/")
def test_softmax_regression_learns_mnist(capsys):
    assert main(["train", "--data", "mnist", "--model", "softmax", "--epochs", "1"]) == 0
    out = capsys.readouterr().out
    assert "54000 images to train on, 6000 for validation, 10000 for the test" in out
    assert float(re.search(r"test accuracy ([\d.]+)%", out)[1]) > 89
    assert sum(images for images, _, _ in class_table(out).values()) == 10000


def test_summary_shows_how_each_layer_is_computed(capsys):
    assert main(["summary", "--data", "mnist", "--model", "cnn", "--engine"]) == 0
    out = capsys.readouterr().out
    assert "Conv2d(1, 32, 7) + ReLU() + MaxPool2d(2" in out.splitlines()[0] and "Linear(3872, 100)" in out


# -- going on after an interruption ------------------------------------------------------------------------------------

LONG = ["train", "--model", "mlp", "--epochs", "6"]


def results(folder):
    """What a training leaves, the times left out."""
    history = json.loads((folder / "history.json").read_text())
    assert len(history.pop("seconds")) == history["epochs"]
    with np.load(folder / "network.npz") as arrays:
        network = {name: arrays[name].tobytes() for name in arrays.files}
    return network, history, (folder / "training.png").read_bytes()


def snapshot(folder):
    """All files below a folder, with their content and the time of their last change."""
    return {path: path.is_file() and (path.read_bytes(), path.stat().st_mtime_ns) for path in Path(folder).rglob("*")}


def small_figure(history, *predictions):
    """In the place of the training sheet, whose 30 images take a second to draw."""
    return fastbp.plotting.curves(history)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The results of LONG without an interruption."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fastbp.plotting, "training_sheet", small_figure)
        assert main([*LONG, "--output", str(folder)]) == 0
    return results(folder)


@pytest.fixture
def stop(monkeypatch):
    """A function to have the nth step from now raise KeyboardInterrupt, or what is given; 0 for none."""
    monkeypatch.setattr(fastbp.plotting, "training_sheet", small_figure)
    step, left = fastbp.Trainer.step, [0, KeyboardInterrupt]

    def counted(*arguments):
        left[0] -= 1
        if left[0] == 0:
            raise left[1]
        return step(*arguments)

    monkeypatch.setattr(fastbp.Trainer, "step", counted)
    return lambda steps, error=KeyboardInterrupt: left.__setitem__(slice(None), [steps, error])


@pytest.mark.parametrize("seed", range(3))
def test_an_interrupted_training_goes_on_to_the_same_bits(capsys, tmp_path, stop, whole, seed):
    rng, interruptions = np.random.default_rng(seed), 0
    code = 130
    while code == 130:
        stop(int(rng.integers(1, 70)) if interruptions < 5 else 0)  # an epoch has 21 steps
        code = main([*LONG, "--output", "out", "--resume"])
        interruptions += code == 130
    assert code == 0 and interruptions and results(tmp_path / "out") == whole
    assert sorted(os.listdir("out")) == FILES and os.listdir() == ["out"]


def test_a_killed_training_goes_on_to_the_same_bits(capsys, tmp_path, stop, whole):
    process = started(*LONG[:-1], "100000", "--output", "out")
    wait_for(lambda: len(list(tmp_path.glob("out/training.npz"))) == 1)
    process.kill()
    process.communicate()
    done = fastbp.training.resume.epochs_done("out/training.npz")[0]
    (tmp_path / "out" / ".network.npz.1.ab.part").write_bytes(b"half")  # as it may leave
    (tmp_path / "out" / ".matplotlib.abc").mkdir()
    (tmp_path / "out" / ".matplotlib.abc" / "cache").write_bytes(b"half")
    error = failed(capsys, 2, *LONG, "--output", "out")
    assert "--resume" in error and "out" in error
    epochs = max(6, done + 1)
    assert main([*LONG[:-1], str(epochs), "--output", "out", "--resume"]) == 0
    out = capsys.readouterr().out
    assert f"goes on after epoch {done}" in out and sorted(os.listdir("out")) == FILES
    if epochs == 6:
        assert results(tmp_path / "out") == whole
    else:
        assert main([*LONG[:-1], str(epochs), "--output", "straight"]) == 0
        assert results(tmp_path / "out")[:2] == results(tmp_path / "straight")[:2]


OTHER = [
    (["--data", "mnist"], "--data digits there, mnist here"),
    (["--model", "softmax"], "--model mlp there, softmax here"),
    (["--seed", "4"], "--seed 0 there, 4 here"),
    (["--dtype", "float64"], "--dtype float32 there, float64 here"),
    (["--batch-size", "32"], "--batch-size 64 there, 32 here"),
    (["--lr", "0.1"], "--lr 0.05 there, 0.1 here"),
    (["--weight-decay", "0.01"], "--weight-decay 0.0 there, 0.01 here"),
    (["--optimizer", "adam", "--lr", "0.05"], "--optimizer sgd there, adam here"),
    (["--seed", "1", "--lr", "1"], "--seed 0 there, 1 here, --lr 0.05 there, 1.0 here"),
]


def test_other_settings_are_refused_by_name_and_nothing_changes(capsys, tmp_path, stop):
    stop(30)
    assert main([*LONG, "--output", "out"]) == 130
    before = snapshot("out")
    capsys.readouterr()
    for changes, said in OTHER:
        error = failed(capsys, 2, *LONG, "--output", "out", "--resume", *changes)
        assert error == f"fastbp: out holds a training of other settings: {said}\n"
    assert "--resume" in failed(capsys, 2, *LONG, "--output", "out")
    assert snapshot("out") == before and os.listdir() == ["out"]


def test_more_epochs_take_an_ended_training_further(capsys, tmp_path, stop, whole):
    assert main([*LONG[:-1], "2", "--output", "out"]) == 0
    first = results(tmp_path / "out")
    before = snapshot("out")
    capsys.readouterr()
    error = failed(capsys, 2, *LONG, "--output", "out")
    assert "already holds a network.npz" in error and "--resume" in error
    assert "2 epochs already" in failed(capsys, 2, *LONG[:-1], "1", "--output", "out", "--resume")
    assert snapshot("out") == before
    for extra in ([], ["--epochs", "2"]):  # without the option as many as before
        (tmp_path / "out" / "network.npz").unlink()
        (tmp_path / "out" / "training.png").unlink()
        assert main([*LONG[:-2], *extra, "--output", "out", "--resume"]) == 0
        out = capsys.readouterr().out
        assert "had ended after epoch 2" in out and "test accuracy" in out and results(tmp_path / "out") == first
    assert main([*LONG, "--output", "out", "--resume"]) == 0
    assert results(tmp_path / "out") == whole
    os.rename("out", "elsewhere")
    assert main([*LONG[:-2], "--output", "elsewhere", "--resume"]) == 0
    assert "had ended after epoch 6" in capsys.readouterr().out


@pytest.mark.parametrize("there", ["nowhere", "empty", "begun"])
def test_resume_where_nothing_is_saved_begins_at_the_beginning(capsys, tmp_path, stop, whole, there):
    if there == "empty":
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("mine")
    if there == "begun":  # a training that was killed before its first epoch had ended
        stop(5, SystemExit)
        with pytest.raises(SystemExit):
            main([*LONG, "--output", "out"])
    stop(0)
    assert main([*LONG, "--output", "out", "--resume"]) == 0
    assert "begins at the beginning" in capsys.readouterr().out and results(tmp_path / "out") == whole


def test_a_kill_between_the_first_network_and_the_first_state_loses_nothing(capsys, tmp_path, stop, whole):
    stop(30)
    assert main([*LONG, "--output", "out"]) == 130
    (tmp_path / "out" / "training.npz").unlink()
    stop(0)
    assert main([*LONG, "--output", "out", "--resume"]) == 0
    assert results(tmp_path / "out") == whole


@pytest.mark.parametrize("name", ["network.npz", "history.json", "training.npz"])
def test_a_full_disk_costs_no_finished_epoch(capsys, tmp_path, stop, whole, monkeypatch, name):
    replace = os.replace

    def full(source, target):
        if Path(target).name == name and fastbp.training.resume.epochs_done("out/training.npz")[0] == 2:
            raise OSError(28, "No space left on device", source)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert main([*LONG, "--output", "out"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"out/{name}: No space left on device")
    assert not [file for file in os.listdir("out") if file.startswith(".")]
    assert main([*LONG, "--output", "out", "--resume"]) == 0
    assert "goes on after epoch 2" in capsys.readouterr().out and results(tmp_path / "out") == whole


def test_a_trained_network_without_its_state_is_not_written_over(capsys, tmp_path, stop):
    assert main([*LONG[:-1], "2", "--output", "out"]) == 0
    (tmp_path / "out" / "training.npz").unlink()
    before = snapshot("out")
    capsys.readouterr()
    assert "out/training.npz" in failed(capsys, 2, *LONG, "--output", "out", "--resume")
    assert snapshot("out") == before
    (tmp_path / "out" / "training.json").unlink()  # as an older fastbp left it
    assert "already holds a network.npz" in failed(capsys, 2, *LONG, "--output", "out", "--resume")
    assert "already holds a network.npz" in failed(capsys, 2, *LONG, "--output", "out")
    assert sorted(os.listdir("out")) == ["history.json", "network.npz", "training.png"]


@pytest.mark.parametrize("name, code", [("training.npz", 1), ("training.json", 2)])
@pytest.mark.parametrize("damage", ["cut", "flipped", "other"])
def test_a_damaged_state_is_named_and_nothing_changes(capsys, tmp_path, stop, name, code, damage):
    stop(30)
    assert main([*LONG, "--output", "out"]) == 130
    path = tmp_path / "out" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes({"cut": content[: len(content) // 2], "flipped": content, "other": b"[1, 2]\n"}[damage])
    before = snapshot("out")
    capsys.readouterr()
    assert main([*LONG, "--output", "out", "--resume"]) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"out/{name}" in last and "damaged" in last and snapshot("out") == before


def test_resume_without_a_folder_finds_the_training(capsys, tmp_path, stop, whole):
    first, second = tmp_path / "fastbp-digits-mlp", tmp_path / "fastbp-digits-mlp-2"
    assert main([*LONG, "--resume"]) == 0  # none is there: a new one
    assert results(first) == whole
    for options in (["--seed", "1"], []):
        stop(30)
        assert main([*LONG, *options]) == 130
    stop(0)
    third = tmp_path / "fastbp-digits-mlp-3"
    before = snapshot(first) | snapshot(second)
    assert main([*LONG, "--resume"]) == 0  # of three the one of these settings that has not ended
    assert results(third) == whole and snapshot(first) | snapshot(second) == before
    capsys.readouterr()
    error = failed(capsys, 2, *LONG, "--resume")
    assert "fastbp-digits-mlp or fastbp-digits-mlp-3" in error and "--output" in error
    error = failed(capsys, 2, *LONG, "--resume", "--lr", "2")
    assert "fastbp-digits-mlp-2 has --seed 1 there, 0 here, --lr 0.05 there, 2.0 here" in error
    assert main([*LONG, "--resume", "--seed", "1"]) == 0 and "goes on after epoch 1" in capsys.readouterr().out
    assert len(os.listdir()) == 3


def test_a_single_folder_of_other_settings_is_said_to_be_so(capsys, stop):
    stop(30)
    assert main(LONG) == 130
    capsys.readouterr()
    assert "--lr 0.05 there, 0.5 here" in failed(capsys, 2, *LONG, "--resume", "--lr", "0.5")
    assert os.listdir() == ["fastbp-digits-mlp"]


@pytest.mark.parametrize("after", [10, 30])
def test_a_training_that_diverged_does_not_go_on(capsys, tmp_path, monkeypatch, after):
    steps = iter([1.0] * after)
    step = fastbp.Trainer.step
    with monkeypatch.context() as patch:
        patch.setattr(fastbp.Trainer, "step", lambda *arguments: step(*arguments) * next(steps, np.nan))
        assert main([*LONG, "--output", "out"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "the loss is nan in epoch" in said and "lower --lr" in said
    if after < 21:  # in the first epoch: nothing came of it
        assert os.listdir() == []
        return
    before = snapshot("out")
    assert main([*LONG, "--output", "out", "--resume"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == said and snapshot("out") == before


# -- several at once ---------------------------------------------------------------------------------------------------


def test_of_two_trainings_in_one_folder_one_trains_and_the_other_says_so(capsys, tmp_path):
    forever = ["train", "--model", "softmax", "--epochs", "1000000", "--output", "new/out"]
    processes = [started(*forever) for _ in range(2)]
    wait_for(lambda: any(process.poll() is not None for process in processes))
    processes.sort(key=lambda process: process.poll() is None)
    refused, trains = processes
    out, err = refused.communicate(timeout=60)
    assert refused.returncode == 2 and out == ""
    assert err.count("\n") == 1 and "another fastbp train is at work in new/out" in err
    wait_for(lambda: (tmp_path / "new/out/training.npz").exists())
    for extra in ([], ["--resume"], ["--resume", "--seed", "1"]):
        assert "at work in new/out" in failed(capsys, 2, *forever, *extra)
    trains.send_signal(signal.SIGTERM)
    _, err = trains.communicate(timeout=60)
    assert trains.returncode == 130 and "Traceback" not in err
    assert re.fullmatch(
        r"fastbp: interrupted. new/out/network.npz holds the network after epoch \d+", err.splitlines()[-1]
    )
    assert "--resume" in err.splitlines()[-2]
    done, asked = fastbp.training.resume.epochs_done("new/out/training.npz")
    assert done >= 1 and asked == 1_000_000 and "--resume" in failed(capsys, 2, *forever)


def test_trainings_without_a_folder_get_one_each(tmp_path):
    processes = [started(*QUICK) for _ in range(2)]
    for process in processes:
        process.communicate(timeout=120)
    assert [process.returncode for process in processes] == [0, 0]
    assert sorted(os.listdir()) == ["fastbp-digits-softmax", "fastbp-digits-softmax-2"]
    assert all(sorted(os.listdir(folder)) == FILES for folder in os.listdir())


# -- signals while the package is imported -----------------------------------------------------------------------------

BLOCKED = """
import time
try:
    print("importing", flush=True)
    time.sleep(60)
except BaseException as error:  # as some packages do
    raise ImportError("something was missing") from error
"""


@pytest.mark.parametrize(
    "how, module, number",
    [
        ("-m", "numba", signal.SIGINT),
        ("-m", "numba", signal.SIGTERM),
        ("script", "numba", signal.SIGINT),
        ("script", "numba", signal.SIGTERM),
        ("-m", "matplotlib", signal.SIGINT),
        ("script", "matplotlib", signal.SIGTERM),
    ],
)
def test_signals_during_imports_end_the_command_without_a_traceback(tmp_path, how, module, number):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / f"{module}.py").write_text(BLOCKED)
    (tmp_path / "fastbp").write_text("import sys\nfrom fastbp.cli import main\nsys.exit(main())\n")  # as pip makes it
    command = [sys.executable, *(["-m", "fastbp"] if how == "-m" else [tmp_path / "fastbp"]), *QUICK]
    root = Path(fastbp.__file__).parent.parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path / "modules", root)))}
    (tmp_path / "work").mkdir()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=env, cwd=tmp_path / "work", **pipes)
    for line in process.stdout:
        if line == "importing\n":
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err and "interrupted" in err.splitlines()[-1]
    if module == "matplotlib":  # not before the figure: all else is there
        assert sorted(os.listdir(tmp_path / "work" / "fastbp-digits-softmax")) == FILES[:-1]


def test_signals_in_programs_that_import_fastbp_are_theirs(tmp_path):
    """Also those that are called like a part of it, and worker processes, which are given the command's sys.argv."""
    code = """if True:
        import signal, sys
        sys.argv = ["/usr/bin/fastbp", "fastbp"]
        import fastbp
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    """
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("import fastbp")  # sys.argv[0] is "-m" here
    (tmp_path / "mine" / "__main__.py").write_text(code)
    for command in (["mine.py"], ["-m", "mine", "fastbp"]):
        result = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stderr


def test_main_leaves_the_signals_as_they_were(capsys):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert main(["summary"]) == 0 and main(["train", "--epochs", "0"]) == 2
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# -- streams, backends and figures that fail ---------------------------------------------------------------------------


class WriteOnly:
    """A stream as host programs put one in the place of the real one."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text
        return len(text)


def closed_stream():
    with open(os.devnull, "w") as stream:
        return stream


@pytest.mark.parametrize(
    "stream", [lambda: None, closed_stream, WriteOnly, object], ids=["None", "closed", "write", "object"]
)
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_standard_streams_of_any_kind_do_not_matter(monkeypatch, tmp_path, stream, name, stop):
    there = stream()
    monkeypatch.setattr(sys, name, there)
    assert main([*QUICK, "--output", "out"]) == 0
    assert main(["fly"]) == 2 and main(["summary"]) == 0 and getattr(sys, name) is there
    with pytest.raises(SystemExit):
        main(["--help"])
    assert sorted(os.listdir(tmp_path / "out")) == FILES
    if isinstance(there, WriteOnly):
        wanted = ("test accuracy", "30,230 parameters") if name == "stdout" else ("epoch 2/2", "fastbp: ")
        assert all(words in there.text for words in wanted)


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_closed_standard_streams_do_not_matter(tmp_path):
    """With 2 closed, the next file that is opened is number 2: what is printed must not go there."""
    for name, closed in {"some": "2>&-", "all": "<&- >&- 2>&-"}.items():
        command = f"'{sys.executable}' -m fastbp {' '.join(QUICK)} --output {name} {closed}"
        result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120, check=False)
        assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
        assert sorted(os.listdir(name)) == FILES
        record = json.loads((tmp_path / name / "training.json").read_text())
        assert record["settings"]["model"] == "softmax" and results(tmp_path / name)[1]["epochs"] == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_output_that_cannot_be_written_is_one_line():
    command = [sys.executable, "-m", "fastbp", "summary"]
    with open("/dev/full", "w") as full:
        for unbuffered in ("", "1"):
            env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
            result = subprocess.run(
                command, stdout=full, stderr=subprocess.PIPE, text=True, env=env, timeout=60, check=False
            )
            assert result.returncode == 1 and result.stderr.count("\n") == 1 and "No space left" in result.stderr


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_nowhere", "agg"])
def test_no_backend_of_matplotlib_matters(tmp_path, backend):
    code = """if True:
        import os, sys
        from fastbp.cli import main
        code = main(sys.argv[1:])
        assert "matplotlib.pyplot" not in sys.modules and os.environ["MPLBACKEND"] == sys.argv[-1]
        import matplotlib
        good = sys.argv[-1] == "agg"  # whoever uses pyplot later has the backend of the environment, if it is one
        assert not good or matplotlib.get_backend() == "agg"
        from fastbp import graph
        graph.draw(graph.TensorNode(1.0) * 2).savefig("graph.png")
        sys.exit(code)
    """
    command = [sys.executable, "-c", code, *QUICK, "--output", backend]
    result = subprocess.run(
        command, env={**os.environ, "MPLBACKEND": backend}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0 and "warning" not in result.stderr, result.stderr
    assert sorted(os.listdir(backend)) == FILES and Path("graph.png").exists()


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), ValueError("two\nlines"), MemoryError(), ImportError("no matplotlib")],
)
def test_a_figure_that_fails_costs_neither_results_nor_the_exit_status(capsys, monkeypatch, tmp_path, stop, error):
    def fail(*arguments, **options):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(fastbp.plotting, "training_sheet" if isinstance(error, ValueError) else "save", fail)
        assert main([*QUICK, "--output", "out"]) == 0
    out, err = capsys.readouterr()
    (warning,) = [line for line in err.splitlines() if "training.png" in line]
    assert warning.startswith("fastbp: warning: out/training.png could not be drawn")
    assert type(error).__name__ in warning
    assert "test accuracy" in out and "wrote out/network.npz and out/history.json" in out
    assert sorted(os.listdir("out")) == FILES[:-1]
    assert main([*QUICK, "--output", "out", "--resume"]) == 0 and sorted(os.listdir("out")) == FILES


def test_a_training_as_plain_python_ends_as_the_compiled_one_does():
    """What `NUMBA_DISABLE_JIT=1` is for: the same kernels, to step through; the same files."""
    for folder, more in (("plain", PLAIN), ("compiled", {"NUMBA_DISABLE_JIT": "0"})):
        clean(run("train", "--model", "softmax", "--epochs", "1", "--output", folder, env={**os.environ, **more}))
        assert sorted(os.listdir(folder)) == FILES
    plain, compiled = (json.loads(Path(folder, "history.json").read_text()) for folder in ("plain", "compiled"))
    assert plain.keys() == compiled.keys() and plain["epochs"] == 1
    for name, numbers in plain.items():
        if name.endswith(("loss", "accuracy")):
            assert all(type(number) is float for number in numbers)
            np.testing.assert_allclose(numbers, compiled[name], rtol=1e-4)
    vectors = [fastbp.load(f"{folder}/network.npz").parameter_vector for folder in ("plain", "compiled")]
    np.testing.assert_allclose(*vectors, rtol=1e-3, atol=1e-5)


def test_an_interruption_while_a_training_begins_leaves_nothing(capsys, monkeypatch, tmp_path):
    """The settings are just being written down."""
    fsync = os.fsync

    def interrupted(*arguments):
        monkeypatch.setattr(os, "fsync", fsync)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    assert main([*QUICK, "--output", "out"]) == 130
    assert os.listdir(tmp_path) == []
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert main([*QUICK, "--output", "out"]) == 0


def test_a_refused_state_stays_where_the_network_is_gone(capsys, tmp_path, stop):
    stop(30)
    assert main([*LONG, "--output", "out"]) == 130
    (tmp_path / "out" / "network.npz").unlink()
    state = tmp_path / "out" / "training.npz"
    state.write_bytes(state.read_bytes()[:500])
    before = snapshot("out")
    capsys.readouterr()
    assert main([*LONG, "--output", "out", "--resume"]) == 1
    out, err = capsys.readouterr()
    assert "damaged" in err and "begins at the beginning" not in out and snapshot("out") == before


def test_an_empty_name_is_no_folder(capsys, tmp_path):
    assert "--output" in failed(capsys, 2, *QUICK, "--output", "")
    assert os.listdir(tmp_path) == []
