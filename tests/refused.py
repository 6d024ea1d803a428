"""What tests of bad arguments share."""

import dis
from pathlib import Path

import numpy as np
import pytest

import fastbp

PACKAGE = Path(fastbp.__file__).parent


def refused(call, *words, kind=(TypeError, ValueError)) -> None:
    """The call is refused by an error that fastbp itself has raised, with these words in its message."""
    with pytest.raises(kind) as caught:
        call()
    last = caught.tb
    while last.tb_next is not None:
        last = last.tb_next
    code = last.tb_frame.f_code
    by_fastbp = Path(code.co_filename).is_relative_to(PACKAGE)
    raised = dis.opname[code.co_code[last.tb_lasti]] == "RAISE_VARARGS"
    assert by_fastbp and raised, f"not raised by fastbp: {caught.value!r}"
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in {caught.value!r}"


def no_arrays(like: np.ndarray) -> list:
    """What is taken for an array and is none of real numbers, or has a mask or products of its own."""
    return [
        None, "text", b"3", object(), {1: 2}, [[1.0], [2.0, 3.0]], like * 1j, like.astype(object), like.astype("U8"),
        np.ma.masked_array(like), like.reshape(len(like), -1).view(np.matrix), np.zeros(like.shape, [("a", "f8")]),
        np.full(like.shape, np.datetime64("2020-01-01")), [fastbp.ReLU()] * len(like),
    ]  # fmt: skip
