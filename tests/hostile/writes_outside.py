"""Writes outside its folder, wherever it can."""

import os

import numpy as np


def fc_forward(x, w, b):
    written = []
    for folder in (
        "/tmp",
        "/var/tmp",
        "/dev/shm",
        "/root",
        "..",
        os.path.expanduser("~root"),
        os.path.dirname(np.__file__),
    ):
        path = os.path.join(folder, "written_by_a_submission")
        try:
            with open(path, "w") as file:
                file.write("here")
            written.append(path)
        except OSError:
            pass
    raise RuntimeError(f"written: {written}")


def fc_backward(dout, cache):
    x, w = cache
    return dout @ w.T, x.T @ dout, dout.sum(0)


def relu_forward(x):
    return np.maximum(x, 0), x


def relu_backward(dout, cache):
    return dout * (cache > 0)
