"""What a submission may use, and what is raised where it does something else than answer."""

from dataclasses import dataclass

KINDS = (
    "missing", "not callable", "raised", "timeout", "crashed", "exited", "memory", "output", "protocol", "value",
    "import",
)  # fmt: skip
MESSAGE = 4_000  # characters


@dataclass(frozen=True)
class Limits:
    """What a submission may use.

    seconds        of wall time for each call, and for the import
    cpu_seconds    of processor time for the process, all its calls together
    memory_bytes   of address space
    file_bytes     in its temporary folder
    output_bytes   printed in one call; also how much of what it prints is kept
    processes      threads and processes that it may start, where the kernel cannot refuse it every new process
    reply_bytes    of a call's results
    """

    seconds: float = 10.0
    cpu_seconds: int = 300
    memory_bytes: int = 2 << 30
    file_bytes: int = 16 << 20
    output_bytes: int = 256 << 10
    processes: int = 32
    reply_bytes: int = 256 << 20


class SubmissionError(Exception):
    """What a submission did instead of answering.

    `kind`: "missing", "not callable", "raised", "timeout", "crashed", "exited", "memory", "output" (printed or wrote
    too much), "protocol" (broke the pipes), "value" (returned what cannot be graded), or "import" (could not be read).
    `message`: for the student, one or a few lines; with the lines of the submission where something was raised.
    """

    def __init__(self, kind: str, message: str):
        super().__init__(kind, message)
        self.kind, self.message = kind, message

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"
