"""The command `fastbp`: train, predict, check, summary and grade. It parses, calls the library, and prints."""

import argparse
import contextlib
import io
import math
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from . import __version__, datasets, models
from .callbacks import Checkpoint
from .gradcheck import check_gradients
from .interrupts import STATUS, Interruptible
from .losses import SoftmaxCrossEntropy
from .network import Sequential
from .optimizers import SGD, Adagrad, Adam, AdamW, Optimizer, RMSProp
from .progress import Terminal, tell, watched
from .resume import seconds_spent
from .training import evaluate, fit, predict, predict_proba
from .trainings import Folder, Refused, training_folder

INPUT_SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "notmnist": (1, 28, 28), "cifar10": (3, 32, 32)}
EPOCHS = {"digits": 30, "mnist": 5, "notmnist": 10, "cifar10": 10}
CLASSES = 10
RESUME = "fit: resume: "  # before what fit says of the state that it goes on from
TRAIN = """Train a network on a data set. The folder of the results holds network.npz and history.json, new after each
epoch, training.png at the end, and training.npz and training.json, the state and the settings for --resume. Ctrl-C and
SIGTERM end the training with exit status 130. After these, and after anything else that ends it, the same command with
--resume goes on from the last finished epoch, to the same network, bit for bit. It needs the same settings, but --epochs
may be larger, also when the training had come to its end. Where nothing is there yet, --resume begins at the beginning.
A folder is for one training at a time."""
MODELS = {
    "softmax": lambda shape, **options: models.softmax_classifier(shape, CLASSES, **options),
    "mlp": lambda shape, **options: models.mlp([math.prod(shape), 100, CLASSES], **options),
    "lenet5": lambda shape, **options: models.lenet5(shape, CLASSES, **options),
    "cnn": lambda shape, **options: models.cnn(shape, CLASSES, **options),
}
OPTIMIZERS = {  # name: (class, options, default learning rate)
    "sgd": (SGD, {"momentum": 0.9}, 0.05),
    "adam": (Adam, {}, 0.001),
    "adamw": (AdamW, {}, 0.001),
    "rmsprop": (RMSProp, {}, 0.001),
    "adagrad": (Adagrad, {}, 0.01),
}


class Failure(Exception):
    """What went wrong, in one line for the user; `code` is the exit status."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code


class Parser(argparse.ArgumentParser):
    """Errors in one line, without the usage, exit status 2."""

    def error(self, message):
        raise Failure(f"{' '.join(message.split())} (see {self.prog} --help)", code=2)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, 1 for a failure, 2 for wrong arguments, 130 after Ctrl-C or SIGTERM."""
    with _working_streams():
        try:
            with Interruptible():
                try:
                    options = _parser().parse_args(arguments)
                    return options.run(options)
                finally:
                    _flush()
        except KeyboardInterrupt:
            return _fail("interrupted", STATUS)
        except Exception as error:
            code = getattr(error, "code", 1)
            if Interruptible.came and code != STATUS:  # a library has made this of it
                return _fail("interrupted", STATUS)
            if isinstance(error, (Failure, datasets.DataError)):
                return _fail(str(error), code)
            if (
                isinstance(error, BrokenPipeError) and not error.filename
            ):  # the reader of our output has gone, e.g. `| head`
                return 1
            if isinstance(error, OSError):
                return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
            raise


@contextlib.contextmanager
def _working_streams() -> Iterator[None]:
    """Standard output and error that can be written to: for one that is None, closed or no stream there is one that goes
    nowhere."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stdout, sys.stderr = (stream if _works(stream) else nowhere for stream in before)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # names that the terminal's encoding can't show
                stream.reconfigure(errors="backslashreplace")
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def _works(stream) -> bool:
    try:
        if not hasattr(stream, "write") or getattr(stream, "closed", False):
            return False
        os.fstat(stream.fileno())
    except (AttributeError, io.UnsupportedOperation):  # no file below it
        return True
    except Exception:
        return False
    return True


def _flush() -> None:
    """What has been printed is on its way; where that fails, Python shall not try again as it ends."""
    try:
        if hasattr(sys.stdout, "flush"):
            sys.stdout.flush()
    except OSError:
        with contextlib.suppress(Exception):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _fail(message: str, code: int) -> int:
    tell(f"fastbp: {message}")
    return code


def _parser() -> Parser:
    parser = Parser(
        prog="fastbp", description="Train, use and gradient-check small networks; grade hand-written layers."
    )
    parser.add_argument("--version", action="version", version=f"fastbp {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command", parser_class=Parser)

    what = argparse.ArgumentParser(add_help=False)
    what.add_argument("--data", choices=INPUT_SHAPES, default="digits", help="data set (default: the embedded digits)")
    what.add_argument("--model", choices=MODELS, default="cnn", help="network (default: cnn)")
    what.add_argument("--seed", type=_whole(0), default=0, help="of initial values, splits and shuffling (default: 0)")
    what.add_argument("--dtype", choices=("float32", "float64"), default="float32")

    where = argparse.ArgumentParser(add_help=False)
    where.add_argument(
        "--data-dir", metavar="DIR", help="where the data files are (default: $FASTBP_DATA, then a per-user cache)"
    )

    train = commands.add_parser("train", parents=[what, where], help="train a network on a data set", description=TRAIN)
    epochs = ", ".join(f"{name} {count}" for name, count in EPOCHS.items())
    train.add_argument("--epochs", type=_whole(1), metavar="N", help=f"default: {epochs}; with --resume, as before")
    train.add_argument("--batch-size", type=_whole(1), default=64, metavar="N", help="default: 64")
    train.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd", help="default: sgd, with momentum 0.9")
    rates = ", ".join(f"{lr:g} for {name}" for name, (_, _, lr) in OPTIMIZERS.items())
    train.add_argument("--lr", type=_positive, metavar="X", help=f"learning rate (default: {rates})")
    train.add_argument("--weight-decay", type=_not_negative, default=0.0, metavar="X", help="L2 penalty (default: 0)")
    train.add_argument(
        "--output", type=_path, metavar="DIR", help="folder for the results (default: a new fastbp-DATA-MODEL)"
    )
    train.add_argument(
        "--resume", action="store_true", help="go on with the training in the folder after its last finished epoch"
    )
    train.set_defaults(run=_train)

    use = commands.add_parser(
        "predict", parents=[where], help="classify images, or the test set, with a trained network"
    )
    use.add_argument("network", type=Path, help="network.npz as train wrote it")
    use.add_argument("images", nargs="*", type=Path, help="image files (default: the test set of the training data)")
    use.add_argument("--invert", action="store_true", help="swap dark and light, for dark strokes on light paper")
    use.set_defaults(run=_predict)

    check = commands.add_parser("check", parents=[what], help="compare a network's gradients with finite differences")
    check.add_argument(
        "--samples", type=_whole(1), default=50, metavar="N", help="elements checked of each tensor (default: 50)"
    )
    check.set_defaults(run=_check)

    summary = commands.add_parser("summary", parents=[what], help="show layers, shapes, parameters, FLOPs and memory")
    summary.add_argument(
        "--plan", action="store_true", help="show how each layer is computed, and which are computed together"
    )
    summary.add_argument(
        "--batch", type=_whole(1), metavar="N", help="samples that FLOPs and bytes are counted for (default: 1)"
    )
    summary.add_argument("--json", action="store_true", help="print the cost sheet as JSON")
    summary.add_argument("network", nargs="?", type=Path, help="a trained network.npz instead of a new --model")
    summary.set_defaults(run=_summary)

    grade = commands.add_parser("grade", help="grade submissions of hand-written layers by finite differences")
    grade.add_argument("submissions", nargs="+", type=Path, metavar="SUBMISSION",
                       help="a Python file, or a folder: of each file and folder in it is a submission")  # fmt: skip
    grade.add_argument("--one", action="store_true", help="a folder given is itself one submission, of several files")
    grade.add_argument(
        "--assignment", required=True, metavar="NAME_OR_FILE", help="eecs598-hw1, cs231n-a2, or your own file"
    )
    grade.add_argument("--seed", type=_whole(0), default=0, help="of the drawn inputs (default: 0)")
    grade.add_argument("--jobs", type=_whole(1), metavar="N", help="submissions graded at once (default: one a core)")
    grade.add_argument(
        "--timeout", type=_positive, metavar="S", help="seconds for each call (default: the assignment's)"
    )
    grade.add_argument("--format", choices=("text", "json", "gradescope", "html"), default="text", help="default: text")
    grade.add_argument("--output", type=_path, metavar="PATH",
                       help="file for json and gradescope; folder for html, and for the text of several submissions")  # fmt: skip
    grade.set_defaults(run=_grade)
    return parser


def _path(text: str) -> Path:
    if not text:  # a script's variable that is not set: the current folder would be meant
        raise argparse.ArgumentTypeError("expected a name, got ''")
    return Path(text)


def _whole(least: int):
    def whole(text: str) -> int:
        if not text.strip().isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
        return int(text)

    return whole


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}")
    return number


def _positive(text: str) -> float:
    if not (number := _number(text)) > 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


def _not_negative(text: str) -> float:
    if not (number := _number(text)) >= 0:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text!r}")
    return number


def _network(options) -> Sequential:
    try:
        return MODELS[options.model](INPUT_SHAPES[options.data], dtype=np.dtype(options.dtype), seed=options.seed)
    except ValueError as error:
        raise Failure(f"{options.model} is not for the images of {options.data}: {error}", code=2) from None


def _load_data(name: str, data_dir: str | None, dtype: np.dtype) -> datasets.Dataset:
    if name == "digits":
        return datasets.digits(dtype=dtype)
    return getattr(datasets, name)(data_dir, dtype=dtype)


def _load_network(path: Path) -> Sequential:
    try:
        return Sequential.load(path)
    except ValueError as error:
        raise Failure(str(error)) from None


# -- train -----------------------------------------------------------------------------------------------------------


def _train(options) -> int:
    network, loss = _network(options), SoftmaxCrossEntropy()
    kind, more, default_lr = OPTIMIZERS[options.optimizer]
    optimizer = kind(lr=options.lr or default_lr, weight_decay=options.weight_decay, **more)
    names = ("data", "model", "seed", "dtype", "batch_size", "optimizer", "weight_decay")
    settings = {name.replace("_", "-"): getattr(options, name) for name in names} | {"lr": optimizer.lr}
    stem, default = f"fastbp-{options.data}-{options.model}", EPOCHS[options.data]
    try:
        with training_folder(options.output, stem, settings, options.epochs, default, options.resume) as folder:
            return _train_in(folder, options, network, loss, optimizer)
    except Refused as refused:
        raise Failure(str(refused), code=2) from None


def _train_in(folder: Folder, options, network: Sequential, loss: SoftmaxCrossEntropy, optimizer: Optimizer) -> int:
    data = _load_data(options.data, options.data_dir, network.dtype)
    train, validation = datasets.split(data.train, (0.9, 0.1), seed=options.seed)
    network.metadata = {"data": data.name, "classes": list(data.classes), "input_shape": list(data.input_shape)}
    checkpoint = Checkpoint(folder.network)

    def record(run) -> None:
        run.history.to_json(folder.history)
        Interruptible.check()

    try:
        sizes = [len(part.y) for part in (train, validation, data.test)]
        print("{}: {} images to train on, {} for validation, {} for the test".format(data.name, *sizes))
        print(network.summary(data.input_shape))
        print(f"{optimizer}, batch size {options.batch_size}, results go to {folder.path}{os.sep}")
        if options.resume and (folder.done or not folder.state.exists()):  # else it is damaged, as `fit` will say
            print(_whence(folder))
        _flush()
        started = time.perf_counter() - seconds_spent(folder.state)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a loss that is not finite is reported below
            history = fit(
                network,
                loss,
                optimizer,
                train,
                validation,
                epochs=folder.epochs,
                batch_size=options.batch_size,
                callbacks=[checkpoint, record],
                seed=options.seed,
                resume=folder.state,
            )
        seconds = time.perf_counter() - started
        if history.stop_reason:
            raise Failure(f"{history.stop_reason}; a lower --lr may help. {_kept(checkpoint)}")
        if not folder.network.exists():  # removed since its training ended
            network.save(folder.network)

        history.to_json(folder.history)
        predicted = predict(network, data.test.x)
        accuracy = evaluate(network, loss, data.test).accuracy
        title = f"{options.model} on {data.name}: test accuracy {accuracy:.2%}"
        drawn = _draw(folder, history, data, predicted, title)
        print(_class_table(predicted, data.test.y, data.classes))
        print(f"test accuracy {accuracy:.2%} after {len(history)} epochs in {seconds:.1f} s")
        *others, last = [folder.network, folder.history, *[folder.figure] * drawn]
        print(f"wrote {', '.join(map(str, others))} and {last}")
        return 0
    except KeyboardInterrupt:
        if checkpoint.saved_epoch:
            tell(f"fastbp: the same command goes on from there with --resume --output {folder.path}")
        raise Failure(f"interrupted. {_kept(checkpoint)}", STATUS) from None
    except ValueError as error:
        if not str(error).startswith(RESUME):
            raise
        damaged = "damaged" in str(error)
        raise Failure(str(error).removeprefix(RESUME), 1 if damaged else 2) from None


def _whence(folder: Folder) -> str:
    """Where a training that was to go on begins."""
    if not folder.done:
        return f"{folder.path} holds no epoch of it yet: it begins at the beginning"
    if folder.done == folder.epochs:
        return f"the training in {folder.path} had ended after epoch {folder.done}; --epochs takes it further"
    return f"the training in {folder.path} goes on after epoch {folder.done}"


def _kept(checkpoint: Checkpoint) -> str:
    """What an interrupted training leaves."""
    if not os.path.exists(checkpoint.path):
        return "No epoch had ended: nothing is saved"
    epoch = f" after epoch {checkpoint.saved_epoch}" if checkpoint.saved_epoch else ""
    return f"{checkpoint.path} holds the network{epoch}"


def _class_table(predicted: np.ndarray, labels: np.ndarray, classes) -> str:
    """Images, right ones and the commonest mistake of each class."""
    width = max(len("class"), *map(len, classes))
    lines = [f"{'class':<{width}}  images  right  accuracy  most often taken for"]
    for label, name in enumerate(classes):
        of_class = predicted[labels == label]
        right = int((of_class == label).sum())
        mistakes = np.bincount(of_class[of_class != label], minlength=len(classes))
        worst = f"{classes[mistakes.argmax()]} ({mistakes.max()})" if mistakes.any() else ""
        share = f"{right / len(of_class):.2%}" if len(of_class) else "-"
        lines.append(f"{name:<{width}}  {len(of_class):>6}  {right:>5}  {share:>8}  {worst}".rstrip())
    return "\n".join(lines)


def _draw(folder: Folder, history, data: datasets.Dataset, predicted: np.ndarray, title: str) -> bool:
    """Curves and 30 predictions: up to 10 wrong ones among right ones, each part in the test set's order. False, and a line that
    says why, where there can be no figure: the training has ended well for all that."""
    wrong = np.flatnonzero(predicted != data.test.y)[:10]
    right = np.flatnonzero(predicted == data.test.y)[: 30 - len(wrong)]
    shown = np.concatenate([wrong, right])
    try:
        with _home_of_matplotlib(folder.path):
            from . import plotting

            sheet = plotting.training_sheet(
                history, data.test.x[shown], predicted[shown], data.test.y[shown], data.classes, title
            )
            plotting.save(sheet, folder.figure)
    except Exception as error:
        Interruptible.check()
        why = " ".join(f"{type(error).__name__}: {error}".split())
        tell(f"fastbp: warning: {folder.figure} could not be drawn: {why}")
        return False
    return True


@contextlib.contextmanager
def _home_of_matplotlib(folder: Path) -> Iterator[None]:
    """matplotlib wants a folder of its own; where it can make none at home, it gets one for the time of the drawing."""
    home = os.path.expanduser("~")
    if "MPLCONFIGDIR" in os.environ or os.path.isabs(home) and os.access(home, os.W_OK):
        yield
        return
    try:
        scratch = tempfile.TemporaryDirectory(prefix="fastbp-")
    except OSError:  # nowhere to put temporary files
        scratch = tempfile.TemporaryDirectory(prefix=".matplotlib.", dir=folder)
    with scratch as name:
        os.environ["MPLCONFIGDIR"] = name
        try:
            yield
        finally:
            del os.environ["MPLCONFIGDIR"]


# -- predict, check, summary ---------------------------------------------------------------------------------------------


def _predict(options) -> int:
    network = _load_network(options.network)
    try:
        name, classes, shape = (network.metadata[key] for key in ("data", "classes", "input_shape"))
    except KeyError:
        raise Failure(
            f"{options.network} was not written by fastbp train: it does not say what data it is for"
        ) from None
    if options.images:
        for path in options.images:
            x = _read_image(path, tuple(shape), options.invert, network.dtype)
            chances = predict_proba(network, x)[0]
            best = np.argsort(chances)[::-1][:3]
            print(f"{path}: {classes[best[0]]}  (" + ", ".join(f"{classes[c]} {chances[c]:.1%}" for c in best) + ")")
        return 0
    data = _load_data(name, options.data_dir, network.dtype)
    predicted = predict(network, data.test.x, loss=SoftmaxCrossEntropy())
    print(_class_table(predicted, data.test.y, data.classes))
    print(f"test accuracy {np.mean(predicted == data.test.y):.2%}")
    return 0


def _read_image(path: Path, shape: tuple[int, int, int], invert: bool, dtype: np.dtype) -> np.ndarray:
    """The image as (1, C, H, W) in [0, 1], resized to the network's input."""
    from PIL import Image, ImageOps

    from .datasets.image_files import eight_bits, open_image

    with open(path, "rb") as file:
        image = eight_bits(open_image(file, path), path)
    image = image.convert("L" if shape[0] == 1 else "RGB").resize((shape[2], shape[1]), Image.Resampling.BILINEAR)
    pixels = np.asarray(ImageOps.invert(image) if invert else image, dtype) / 255
    return pixels[None, None] if shape[0] == 1 else pixels.transpose(2, 0, 1)[None]


def _check(options) -> int:
    network = _network(options)
    rng = np.random.default_rng(options.seed)
    x = rng.normal(size=(4, *INPUT_SHAPES[options.data])).astype(network.dtype)
    labels = rng.integers(0, CLASSES, 4)
    report = check_gradients(network, x, labels, loss=SoftmaxCrossEntropy(), samples=options.samples, seed=options.seed)
    print(report)
    return 0 if report.passed else 1


def _summary(options) -> int:
    if options.plan and (options.json or options.batch):
        raise Failure("--plan does not go with --batch and --json, which are the cost sheet's", code=2)
    if options.network is None:
        network, shape = _network(options), INPUT_SHAPES[options.data]
    else:
        network = _load_network(options.network)
        shape = network.metadata.get("input_shape")
        if shape is None:
            raise Failure(
                f"{options.network} was not written by fastbp train: it does not say what shape its input has"
            )
    if options.plan:
        print(network.plan(tuple(shape)))
    else:
        sheet = network.costs(tuple(shape), options.batch or 1)
        print(sheet.to_json() if options.json else sheet)
    return 0


# -- grade ---------------------------------------------------------------------------------------------------------------


def _grade(options) -> int:
    from .grading import AssignmentError, find_submissions, grade_all, load_assignment
    from .grading.batch import Job, left_out
    from .grading.reports import Report
    from .grading.results import gradescope

    try:
        assignment = load_assignment(options.assignment)
        found = find_submissions(options.submissions, options.one)
        if options.format == "gradescope" and len(found) > 1:
            raise ValueError(f"--format gradescope is for one submission, got {len(found)} (a folder as one: --one)")
        report = Report(options.format, options.output, assignment.name, list(found))
    except (AssignmentError, FileNotFoundError, FileExistsError, ValueError) as error:
        raise Failure(str(error), 2) from None
    for path in [] if options.one else left_out(options.submissions):
        tell(f"fastbp: not graded, no Python file: {path}")
    with _progress(len(found)) as bar:

        def done(result) -> None:
            report.add(result)
            bar.set_postfix_str(f"{result.submission} {result.points:g}", refresh=False)
            bar.update()

        try:
            if options.format == "gradescope":  # its file is rewritten after every item
                ((name, path),) = found.items()
                record = None if report.into else options.output
                done(Job(name, path, options.assignment, options.seed, options.timeout, record, gradescope)())
            else:
                grade_all(
                    options.submissions, options.assignment, seed=options.seed, jobs=options.jobs, seconds=options.timeout,
                    folder=report.folder, one=options.one, done=done,
                )  # fmt: skip
        except KeyboardInterrupt:
            kept = f"; what is graded is in {report.place}" if report.place is not None else ""
            raise Failure(
                f"interrupted after {len(report.results)} of {len(found)} submissions{kept}", STATUS
            ) from None
    if text := report.finish():
        print(text)
    for path, why in report.unwritten.items():
        tell(f"fastbp: {path} could not be written: {why}")
    faults = [flag for result in report.results.values() for flag in _faults(result)]
    for fault in faults:
        tell(f"fastbp: {fault}")
    return 1 if faults or report.unwritten else 0


def _faults(result) -> list[str]:
    """What went wrong that is not the submission's doing."""
    flags = [result.error, *(flag for item in result.items for flag in item.flags)]
    return [f"{result.submission}: {flag}" for flag in flags if flag.startswith("the grader failed")]


def _progress(total: int):
    """A bar where somebody watches several submissions being graded."""
    from tqdm import tqdm

    shown = total > 1 and watched()
    return tqdm(total=total, unit="submission", dynamic_ncols=True, leave=False, disable=not shown, file=Terminal())
