"""EECS 598 Deep Learning, homework 1: layers and losses as pairs of NumPy functions."""

from ...losses import HingeLoss, LogisticLoss, SoftmaxCrossEntropy
from .. import references
from ..assignment import Assignment, Case, Convention, Item
from ..inputs import signs, sizes, spread
from .shared import (
    DROP,
    KEEP,
    RUNNING,
    batch_norms,
    batchnorm,
    classes,
    dropout,
    fc,
    loss_cases,
    loss_conventions,
    max_pool,
)

# -- inputs ------------------------------------------------------------------------------------------------------------


def conv(rng, N=None, whole=False):
    n, C, F = sizes(rng, (2, 4), (2, 4), (2, 4))
    H, W = sizes(rng, (4, 6), (4, 6))
    HH, WW = (H, W) if whole else sizes(rng, (2, 3), (2, 3))
    return {"x": spread(rng, N or n, C, H, W), "w": spread(rng, F, C, HH, WW)}


def binary(rng, N=None, scale=2.0):
    N = N or int(rng.integers(4, 8))
    return {"x": spread(rng, N, scale=scale), "y": signs(rng, N)}


def zero_one(arguments):
    return {**arguments, "y": (arguments["y"] + 1) // 2}


# -- items -------------------------------------------------------------------------------------------------------------


def binary_loss(make):
    """Labels −1/+1 or 0/1, both accepted; the mean over the batch, not the sum."""
    mean, total = references.loss(make), references.loss(make, summed=True)
    return (
        Convention("labels −1 and +1, mean over the batch", mean),
        Convention("labels 0 and 1, mean over the batch", mean, convert=zero_one),
        Convention("labels −1 and +1, summed over the batch", total, accepted=False),
        Convention("labels 0 and 1, summed over the batch", total, accepted=False, convert=zero_one),
    )


ITEMS = (
    Item(
        "fc", "fc_forward(x, w, b) -> out, cache", ("x", "w", "b"), [Convention("x w + b", references.affine)],
        [
            Case("random input", fc, gradients=True),
            Case("x of shape (N, d1, d2)", lambda rng: fc(rng, image=True), gradients=True),
            Case("a batch of one", lambda rng: fc(rng, N=1), gradients=True),
            Case("arrays that are not contiguous", fc, strided=True),
        ],
        backward="fc_backward(dout, cache) -> dx, dw, db",
    ),
    Item(
        "relu", "relu_forward(x) -> out, cache", ("x",), [Convention("max(0, x)", references.relu)],
        [
            Case("random input", lambda rng: {"x": spread(rng, *sizes(rng, (2, 4), (3, 5)))}, gradients=True),
            Case("x of four axes", lambda rng: {"x": spread(rng, 2, 3, 2, 3)}, gradients=True),
            Case("values of ±1000 and 0", lambda rng: {"x": spread(rng, 3, 4).round() * 1000}),
            Case("an array that is not contiguous", lambda rng: {"x": spread(rng, 4, 3)}, strided=True),
        ],
        backward="relu_backward(dout, cache) -> dx",
    ),
    Item(
        "batchnorm", "batchnorm_forward(x, gamma, beta, bn_param) -> out, cache", ("x", "gamma", "beta"),
        batch_norms(),
        [
            Case("training", batchnorm, gradients=True),
            Case("evaluation", lambda rng: batchnorm(rng, mode="test")),
            Case("running statistics after training", batchnorm, written=RUNNING),
            Case("training far from 0", lambda rng: batchnorm(rng, offset=100.0)),
            Case("arrays that are not contiguous", batchnorm, strided=True),
        ],
        backward="batchnorm_backward(dout, cache) -> dx, dgamma, dbeta", points=20,
    ),
    Item(
        "dropout", "dropout_forward(x, dropout_param) -> out, cache", ("x",),
        [
            Convention(KEEP.format("training divides by p (inverted)"), references.dropout()),
            Convention(KEEP.format("evaluation multiplies by p (vanilla)"), references.dropout(inverted=False)),
            Convention(DROP.format("training divides by 1 − p (inverted)"), references.dropout(p_drops=True), False),
            Convention(DROP.format("evaluation multiplies by 1 − p (vanilla)"), references.dropout(False, True), False),
        ],
        [
            Case("training", lambda rng: dropout(rng, large=True)),
            Case("training, a small array", dropout, gradients=True),
            Case("evaluation", lambda rng: dropout(rng, mode="test")),
        ],
        backward="dropout_backward(dout, cache) -> dx",
    ),
    Item(
        "conv", "conv_forward(x, w) -> out, cache", ("x", "w"),
        [
            Convention("cross-correlation: the filter is not flipped", references.conv()),
            Convention("convolution: the filter is flipped", references.conv(flipped=True)),
        ],
        [
            Case("random input", conv, gradients=True),
            Case("a batch of one", lambda rng: conv(rng, N=1)),
            Case("a filter as large as the image", lambda rng: conv(rng, whole=True)),
            Case("arrays that are not contiguous", conv, strided=True),
        ],
        backward="conv_backward(dout, cache) -> dx, dw", points=20,
    ),
    Item(
        "max_pool", "max_pool_forward(x, pool_param) -> out, cache", ("x",),
        [Convention("windows inside the input", references.max_pool)],
        [
            Case("random input", max_pool, gradients=True),
            Case("windows that overlap", lambda rng: max_pool(rng, stride=1, size=(2, 3)), gradients=True),
            Case("windows that do not divide the input", lambda rng: max_pool(rng, rest=(1, 1)), gradients=True),
            Case("a batch of one", lambda rng: max_pool(rng, N=1)),
            Case("all values negative", lambda rng: (a := max_pool(rng)) | {"x": a["x"] - 10}),
            Case("an array that is not contiguous", max_pool, strided=True),
        ],
        backward="max_pool_backward(dout, cache) -> dx",
    ),
    Item("logistic", "logistic_loss(x, y) -> loss, dx", ("x",), binary_loss(LogisticLoss), loss_cases(binary)),
    Item("svm", "svm_loss(x, y) -> loss, dx", ("x",), binary_loss(HingeLoss), loss_cases(binary)),
    Item(
        "softmax", "softmax_loss(x, y) -> loss, dx", ("x",), loss_conventions(SoftmaxCrossEntropy), loss_cases(classes),
    ),
)  # fmt: skip

assignment = Assignment("eecs598-hw1", ITEMS, title="EECS 598 Deep Learning, homework 1")
