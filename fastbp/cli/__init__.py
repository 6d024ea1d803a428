"""The command `fastbp`: train, predict, check, summary and grade. It parses, calls the library, and prints.

- options: the arguments, and which function runs each command
- train_command, with train_folder for the folder of its results
- predict_command
- network_commands: check and summary
- grade_command
- choices: the data sets, models and optimisers that commands know by name
- streams: standard output and error, whatever they are
"""

from ..datasets import DataError
from ..interrupts import STATUS, Interruptible
from .options import new_parser
from .streams import Failure, fail, flush, working_streams

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status.

    It is 0 for success, 1 for a failure, 2 for wrong arguments, 130 after Ctrl-C or SIGTERM.
    """
    with working_streams():
        try:
            with Interruptible():
                try:
                    options = new_parser().parse_args(arguments)
                    return options.run(options)
                finally:
                    flush()
        except KeyboardInterrupt:
            return fail("interrupted", STATUS)
        except Exception as error:
            code = getattr(error, "code", 1)
            if Interruptible.came and code != STATUS:  # a library has made this of it
                return fail("interrupted", STATUS)
            if isinstance(error, (Failure, DataError)):
                return fail(str(error), code)
            if isinstance(error, BrokenPipeError) and not error.filename:
                return 1  # the reader of our output has gone, e.g. `| head`
            if isinstance(error, OSError):
                return fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
            raise
