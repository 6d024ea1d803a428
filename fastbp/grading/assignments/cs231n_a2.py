"""CS231n, assignment 2: layers and losses as pairs of NumPy functions."""

from functools import partial

from ...losses import MulticlassHinge, SoftmaxCrossEntropy
from .. import references
from ..assignment import Assignment, Case, Convention, Item
from ..inputs import sizes, spread
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


def layernorm(rng, N=None):
    arguments = batchnorm(rng, N=N)
    del arguments["bn_param"]
    return arguments | {"ln_param": {"eps": 1e-5}}


def conv(rng, N=None, stride=1, pad=1, rest=0):
    n, C, F = sizes(rng, (2, 3), (2, 4), (2, 4))
    HH, WW = sizes(rng, (2, 3), (2, 3))
    H, W = (K + stride * (int(rng.integers(2, 4)) - 1) + rest for K in (HH, WW))
    x = spread(rng, N or n, C, H - 2 * pad + 2, W - 2 * pad + 2) if stride == 1 else spread(rng, N or n, C, H, W)
    return {"x": x, "w": spread(rng, F, C, HH, WW), "b": spread(rng, F), "conv_param": {"stride": stride, "pad": pad}}


def spatial(rng, mode="train"):
    arguments = batchnorm(rng, mode=mode)
    C = len(arguments["gamma"])
    return arguments | {"x": spread(rng, 2, C, 3, 4)}


# -- items -------------------------------------------------------------------------------------------------------------


def batch_norm_cases(draw):
    return (
        Case("training", draw, gradients=True),
        Case("evaluation", partial(draw, mode="test")),
        Case("running statistics after training", draw, written=RUNNING),
        Case("arrays that are not contiguous", draw, strided=True),
    )


ITEMS = (
    Item(
        "affine", "affine_forward(x, w, b) -> out, cache", ("x", "w", "b"), [Convention("x w + b", references.affine)],
        [
            Case("random input", fc, gradients=True),
            Case("x of shape (N, d1, d2)", partial(fc, image=True), gradients=True),
            Case("a batch of one", partial(fc, N=1), gradients=True),
            Case("arrays that are not contiguous", fc, strided=True),
        ],
        backward="affine_backward(dout, cache) -> dx, dw, db",
    ),
    Item(
        "relu", "relu_forward(x) -> out, cache", ("x",), [Convention("max(0, x)", references.relu)],
        [
            Case("random input", lambda rng: {"x": spread(rng, *sizes(rng, (2, 4), (3, 5)))}, gradients=True),
            Case("values of ±1000 and 0", lambda rng: {"x": spread(rng, 3, 4).round() * 1000}),
            Case("an array that is not contiguous", lambda rng: {"x": spread(rng, 4, 3)}, strided=True),
        ],
        backward="relu_backward(dout, cache) -> dx",
    ),
    Item(
        "softmax", "softmax_loss(x, y) -> loss, dx", ("x",), loss_conventions(SoftmaxCrossEntropy), loss_cases(classes),
    ),
    Item("svm", "svm_loss(x, y) -> loss, dx", ("x",), loss_conventions(MulticlassHinge), loss_cases(classes)),
    Item(
        "batchnorm", "batchnorm_forward(x, gamma, beta, bn_param) -> out, cache", ("x", "gamma", "beta"), batch_norms(),
        batch_norm_cases(batchnorm), backward="batchnorm_backward(dout, cache) -> dx, dgamma, dbeta",
    ),
    Item(
        "batchnorm_alt", "batchnorm_forward(x, gamma, beta, bn_param) -> out, cache", ("x", "gamma", "beta"),
        batch_norms(), [Case("training", batchnorm, gradients=True)], weights=(0.1, 0.0, 0.9), points=5,
        backward="batchnorm_backward_alt(dout, cache) -> dx, dgamma, dbeta",
    ),
    Item(
        "layernorm", "layernorm_forward(x, gamma, beta, ln_param) -> out, cache", ("x", "gamma", "beta"),
        [Convention("over the features of each sample", references.layer_norm)],
        [
            Case("random input", layernorm, gradients=True),
            Case("a batch of one", partial(layernorm, N=1), gradients=True),
            Case("arrays that are not contiguous", layernorm, strided=True),
        ],
        backward="layernorm_backward(dout, cache) -> dx, dgamma, dbeta",
    ),
    Item(
        "dropout", "dropout_forward(x, dropout_param) -> out, cache", ("x",),
        [
            Convention(KEEP.format("training divides by p (inverted)"), references.dropout()),
            Convention(KEEP.format("evaluation multiplies by p (vanilla)"), references.dropout(inverted=False), False),
            Convention(DROP.format("training divides by 1 − p (inverted)"), references.dropout(p_drops=True), False),
        ],
        [
            Case("training", partial(dropout, large=True)),
            Case("training, a small array", dropout, gradients=True),
            Case("evaluation", partial(dropout, mode="test"), gradients=True),
        ],
        backward="dropout_backward(dout, cache) -> dx",
    ),
    Item(
        "conv", "conv_forward_naive(x, w, b, conv_param) -> out, cache", ("x", "w", "b"),
        [
            Convention("cross-correlation: the filter is not flipped", references.conv()),
            Convention("convolution: the filter is flipped", references.conv(flipped=True), accepted=False),
        ],
        [
            Case("stride 1, padding 1", conv, gradients=True),
            Case("stride 2, no padding", partial(conv, stride=2, pad=0), gradients=True),
            Case("stride 2, padding 1", partial(conv, stride=2, pad=1), gradients=True),
            Case("stride 2, windows that do not divide the input", partial(conv, stride=2, pad=0, rest=1), True),
            Case("a batch of one", partial(conv, N=1)),
            Case("arrays that are not contiguous", conv, strided=True),
        ],
        backward="conv_backward_naive(dout, cache) -> dx, dw, db", points=20,
    ),
    Item(
        "max_pool", "max_pool_forward_naive(x, pool_param) -> out, cache", ("x",),
        [Convention("windows inside the input", references.max_pool)],
        [
            Case("random input", max_pool, gradients=True),
            Case("windows that overlap", partial(max_pool, stride=1, size=(2, 3)), gradients=True),
            Case("windows that do not divide the input", partial(max_pool, rest=(1, 1)), gradients=True),
            Case("an array that is not contiguous", max_pool, strided=True),
        ],
        backward="max_pool_backward_naive(dout, cache) -> dx",
    ),
    Item(
        "spatial_batchnorm", "spatial_batchnorm_forward(x, gamma, beta, bn_param) -> out, cache",
        ("x", "gamma", "beta"), batch_norms(spatial=True), batch_norm_cases(spatial),
        backward="spatial_batchnorm_backward(dout, cache) -> dx, dgamma, dbeta",
    ),
)  # fmt: skip

assignment = Assignment("cs231n-a2", ITEMS, title="CS231n, assignment 2")
