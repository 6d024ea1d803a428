"""The arguments of the command, and which function runs each of its commands."""

import argparse
import math
from pathlib import Path

from .. import __version__
from .choices import EPOCHS, INPUT_SHAPES, MODELS, OPTIMIZERS
from .grade_command import grade
from .network_commands import check, summary
from .predict_command import classify
from .streams import Failure
from .train_command import train

TRAIN = """Train a network on a data set. The folder of the results holds network.npz and history.json, new after each
epoch, training.png at the end, and training.npz and training.json, the state and the settings for --resume. Ctrl-C and
SIGTERM end the training with exit status 130. After these, and after anything else that ends it, the same command with
--resume goes on from the last finished epoch, to the same network, bit for bit. It needs the same settings, but
--epochs may be larger, also when the training had come to its end. Where nothing is there yet, --resume begins at the
beginning. A folder is for one training at a time."""


class Parser(argparse.ArgumentParser):
    """Errors in one line, without the usage, exit status 2."""

    def error(self, message):
        raise Failure(f"{' '.join(message.split())} (see {self.prog} --help)", code=2)


def new_parser() -> Parser:
    """The parser; `options.run(options)` runs the command that was chosen."""
    what = "Train, use and gradient-check small networks; grade hand-written layers."
    parser = Parser(prog="fastbp", description=what)
    parser.add_argument("--version", action="version", version=f"fastbp {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command", parser_class=Parser)
    _add_train(commands)
    _add_predict(commands)
    _add_check(commands)
    _add_summary(commands)
    _add_grade(commands)
    return parser


def _network_options() -> argparse.ArgumentParser:
    """The options that say which network, shared by commands that make one."""
    parser = argparse.ArgumentParser(add_help=False)
    add = parser.add_argument
    add("--data", choices=INPUT_SHAPES, default="digits", help="data set (default: the embedded digits)")
    add("--model", choices=MODELS, default="cnn", help="network (default: cnn)")
    add("--seed", type=_whole(0), default=0, help="of initial values, splits and shuffling (default: 0)")
    add("--dtype", choices=("float32", "float64"), default="float32")
    return parser


def _data_options() -> argparse.ArgumentParser:
    """The option of commands that read data sets."""
    parser = argparse.ArgumentParser(add_help=False)
    where = "where the data files are (default: $FASTBP_DATA, then a per-user cache)"
    parser.add_argument("--data-dir", metavar="DIR", help=where)
    return parser


def _add_train(commands) -> None:
    parents = [_network_options(), _data_options()]
    parser = commands.add_parser("train", parents=parents, help="train a network on a data set", description=TRAIN)
    add = parser.add_argument
    epochs = ", ".join(f"{name} {count}" for name, count in EPOCHS.items())
    rates = ", ".join(f"{lr:g} for {name}" for name, (_, _, lr) in OPTIMIZERS.items())
    add("--epochs", type=_whole(1), metavar="N", help=f"default: {epochs}; with --resume, as before")
    add("--batch-size", type=_whole(1), default=64, metavar="N", help="default: 64")
    add("--optimizer", choices=OPTIMIZERS, default="sgd", help="default: sgd, with momentum 0.9")
    add("--lr", type=_positive, metavar="X", help=f"learning rate (default: {rates})")
    add("--weight-decay", type=_not_negative, default=0.0, metavar="X", help="L2 penalty (default: 0)")
    add("--output", type=_path, metavar="DIR", help="folder for the results (default: a new fastbp-DATA-MODEL)")
    add("--resume", action="store_true", help="go on with the training in the folder after its last finished epoch")
    parser.set_defaults(run=train)


def _add_predict(commands) -> None:
    what = "classify images, or the test set, with a trained network"
    parser = commands.add_parser("predict", parents=[_data_options()], help=what)
    add = parser.add_argument
    add("network", type=Path, help="network.npz as train wrote it")
    add("images", nargs="*", type=Path, help="image files (default: the test set of the training data)")
    add("--invert", action="store_true", help="swap dark and light, for dark strokes on light paper")
    parser.set_defaults(run=classify)


def _add_check(commands) -> None:
    what = "compare a network's gradients with finite differences"
    parser = commands.add_parser("check", parents=[_network_options()], help=what)
    elements = "elements checked of each tensor (default: 50)"
    parser.add_argument("--samples", type=_whole(1), default=50, metavar="N", help=elements)
    parser.set_defaults(run=check)


def _add_summary(commands) -> None:
    what = "show layers, shapes, parameters, FLOPs and memory"
    parser = commands.add_parser("summary", parents=[_network_options()], help=what)
    add = parser.add_argument
    add("--engine", action="store_true", help="show how each layer is computed, and which are computed together")
    measured = "time each layer on this machine: how it is computed, and what fraction of the machine's peak it reaches"
    add("--measure", action="store_true", help=measured)
    counted = "samples that FLOPs and bytes are counted for (default: 1), or layers are timed with (default: 64)"
    add("--batch", type=_whole(1), metavar="N", help=counted)
    add("--json", action="store_true", help="print the cost sheet, or the times, as JSON")
    add("network", nargs="?", type=Path, help="a trained network.npz instead of a new --model")
    parser.set_defaults(run=summary)


def _add_grade(commands) -> None:
    parser = commands.add_parser("grade", help="grade submissions of hand-written layers by finite differences")
    add = parser.add_argument
    submission = "a Python file, or a folder: each file and folder in it is a submission"
    into = "file for json and gradescope; folder for html, and for the text of several submissions"
    add("submissions", nargs="+", type=Path, metavar="SUBMISSION", help=submission)
    add("--one", action="store_true", help="a folder given is itself one submission, of several files")
    add("--assignment", required=True, metavar="NAME_OR_FILE", help="eecs598-hw1, cs231n-a2, or your own file")
    add("--seed", type=_whole(0), default=0, help="of the drawn inputs (default: 0)")
    add("--jobs", type=_whole(1), metavar="N", help="submissions graded at once (default: one a core)")
    add("--timeout", type=_positive, metavar="S", help="seconds for each call (default: the assignment's)")
    add("--format", choices=("text", "json", "gradescope", "html"), default="text", help="default: text")
    add("--output", type=_path, metavar="PATH", help=into)
    parser.set_defaults(run=grade)


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
