"""The NumPy twins against fastbp's layers and losses and against the oracle in naive.py, forward and backward."""

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layer_cases import dims, values
from twins import cs231n_a2, eecs598_hw1

import fastbp

BOTH = pytest.mark.parametrize("twin", [cs231n_a2, eecs598_hw1], ids=["cs231n", "eecs598"])
MODES = pytest.mark.parametrize("mode", ["train", "test"])
seeds = st.integers(0, 2**32 - 1)


def close(given, expected):
    assert np.shape(given) == np.shape(expected)
    np.testing.assert_allclose(given, expected, rtol=1e-9, atol=1e-10)


def prepared(layer, **parameters):
    """The layer in float64 with these parameters and statistics."""
    layer.astype(np.float64)
    for parameter in layer.parameters:
        parameter.value = parameters[parameter.name]
    for name in layer.state.keys() & parameters.keys():
        layer.state[name][...] = parameters[name]
    return layer


def assert_same(layer, x, twin, rng, training=True):
    """The layer's output and gradients (dx, then the parameters') at x are the twin's: (out, backward of dout)."""
    y = layer.forward(x, training=training)
    out, backward = twin
    close(out, y)
    dout = rng.normal(size=y.shape)
    gradients = backward(dout.copy())
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    for gradient, expected in zip(gradients, [layer.backward(dout), *(p.grad for p in layer.parameters)], strict=True):
        close(gradient, expected)


@BOTH
@given(N=dims(0), shape=st.lists(dims(), min_size=1, max_size=3), M=dims(), seed=seeds)
def test_fully_connected(twin, N, shape, M, seed):
    rng = np.random.default_rng(seed)
    name = "fc" if twin is eecs598_hw1 else "affine"
    forward, backward = getattr(twin, f"{name}_forward"), getattr(twin, f"{name}_backward")
    x, w, b = rng.normal(size=(N, *shape)), rng.normal(size=(np.prod(shape), M)), rng.normal(size=M)
    out, cache = forward(x, w, b)
    flat = x.reshape(N, len(w))
    close(out, naive.linear(flat, w.T, b))

    def gradients(dout):
        dx, dw, db = backward(dout, cache)
        assert dx.shape == x.shape
        return dx.reshape(flat.shape), dw.T, db

    assert_same(prepared(fastbp.Linear(len(w), M), weight=w.T.copy(), bias=b), flat, (out, gradients), rng)


@BOTH
@given(shape=st.lists(dims(0), min_size=1, max_size=4), seed=seeds)
def test_relu(twin, shape, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, shape).astype(float)  # zeros among them
    out, cache = twin.relu_forward(x)
    close(out, naive.relu(x))
    assert_same(fastbp.ReLU(), x, (out, lambda dout: twin.relu_backward(dout, cache)), rng)


NORMS = [
    (eecs598_hw1.batchnorm_forward, eecs598_hw1.batchnorm_backward, False),
    (cs231n_a2.batchnorm_forward, cs231n_a2.batchnorm_backward, False),
    (cs231n_a2.batchnorm_forward, cs231n_a2.batchnorm_backward_alt, False),
    (cs231n_a2.spatial_batchnorm_forward, cs231n_a2.spatial_batchnorm_backward, True),
]


@pytest.mark.parametrize(
    ("forward", "backward", "spatial"), NORMS, ids=["eecs598", "cs231n", "cs231n-alt", "cs231n-spatial"]
)
@MODES
@given(N=dims(), C=dims(), H=dims(), W=dims(), eps=st.sampled_from([1e-5, 1e-2]), seed=seeds)
def test_batch_norm(forward, backward, spatial, mode, N, C, H, W, eps, seed):
    rng = np.random.default_rng(seed)
    x = values(rng, (N, C, H, W) if spatial else (N, C))
    gamma, beta, mean = rng.normal(size=(3, C))
    var = rng.uniform(0.5, 2, C)
    param = {"mode": mode, "eps": eps, "momentum": 0.8, "running_mean": mean.copy(), "running_var": var.copy()}
    out, cache = forward(x, gamma, beta, param)
    if mode == "train":
        expected, batch_mean, batch_var = naive.batch_norm_training(x, gamma, beta, eps)
        close(param["running_mean"], naive.running_update(mean, batch_mean, 0.2))
        close(param["running_var"], naive.running_update(var, batch_var, 0.2))
    else:
        expected = naive.batch_norm_evaluation(x, gamma, beta, mean, var, eps)
        close(param["running_mean"], mean)
        close(param["running_var"], var)
    close(out, expected)
    layer = (fastbp.BatchNorm2d if spatial else fastbp.BatchNorm1d)(C, eps=eps)
    layer = prepared(layer, gamma=gamma, beta=beta, running_mean=mean, running_var=var)
    assert_same(layer, x, (out, lambda dout: backward(dout, cache)), rng, mode == "train")


@given(N=dims(), D=dims(), eps=st.sampled_from([1e-5, 1e-2]), seed=seeds)
def test_layer_norm(N, D, eps, seed):
    """That of x is batch norm of xᵀ, but for gamma and beta, which go with the features."""
    rng = np.random.default_rng(seed)
    x, (gamma, beta) = values(rng, (N, D)), rng.normal(size=(2, D))
    out, cache = cs231n_a2.layernorm_forward(x, gamma, beta, {"eps": eps})
    normal = naive.batch_norm_training(x.T, np.ones(N), np.zeros(N), eps)[0].T
    close(out, gamma * normal + beta)
    dout = rng.normal(size=x.shape)
    dx, dgamma, dbeta = cs231n_a2.layernorm_backward(dout, cache)
    layer = prepared(fastbp.BatchNorm1d(N, eps=eps), gamma=np.ones(N), beta=np.zeros(N))
    layer.forward(np.ascontiguousarray(x.T), training=True)
    close(dx, layer.backward(np.ascontiguousarray((dout * gamma).T)).T)
    close(dgamma, (dout * normal).sum(axis=0))
    close(dbeta, dout.sum(axis=0))


@BOTH
@MODES
@given(shape=st.lists(dims(0), min_size=1, max_size=4), p=st.sampled_from([0.2, 0.7, 1.0]), seed=seeds)
def test_dropout(twin, mode, shape, p, seed):
    rng = np.random.default_rng(seed)
    x, dout = values(rng, shape), rng.normal(size=shape)
    out, cache = twin.dropout_forward(x, {"mode": mode, "p": p, "seed": seed})
    kept = out != 0 if mode == "train" else np.ones(shape, bool)
    scale = p if mode == "train" else 1.0
    close(out, naive.dropout(x, kept, 1 - scale))
    close(twin.dropout_backward(dout, cache), naive.dropout(dout, kept, 1 - scale))
    assert np.array_equal(out, twin.dropout_forward(x, {"mode": mode, "p": p, "seed": seed})[0])


@BOTH
def test_dropout_keeps_with_probability_p(twin):
    out, _ = twin.dropout_forward(np.ones(10_000), {"mode": "train", "p": 0.8, "seed": 0})
    assert 0.78 < (out != 0).mean() < 0.82 and set(np.unique(out)) == {0, 1 / 0.8}


@given(N=dims(), C=dims(1, 3), F=dims(1, 3), HH=dims(), WW=dims(), more=st.tuples(dims(0), dims(0)), seed=seeds)
def test_valid_convolution(N, C, F, HH, WW, more, seed):
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(N, C, HH + more[0], WW + more[1])), rng.normal(size=(F, C, HH, WW))
    out, cache = eecs598_hw1.conv_forward(x, w)
    close(out, naive.conv2d(x, w))
    layer = prepared(fastbp.Conv2d(C, F, (HH, WW), bias=False), weight=w)
    assert_same(layer, x, (out, lambda dout: eecs598_hw1.conv_backward(dout, cache)), rng)

    turned = w[:, :, ::-1, ::-1].copy()
    out, cache = eecs598_hw1.conv_forward_flipped(x, w)
    close(out, naive.conv2d(x, turned))

    def gradients(dout):
        dx, dw = eecs598_hw1.conv_backward_flipped(dout, cache)
        return dx, dw[:, :, ::-1, ::-1]

    assert_same(prepared(fastbp.Conv2d(C, F, (HH, WW), bias=False), weight=turned), x, (out, gradients), rng)


@given(
    N=dims(), C=dims(1, 3), F=dims(1, 3), HH=dims(), WW=dims(), more=st.tuples(dims(0), dims(0)),
    stride=dims(1, 3), pad=dims(0, 2), seed=seeds,
)  # fmt: skip
def test_convolution_with_stride_and_padding(N, C, F, HH, WW, more, stride, pad, seed):
    rng = np.random.default_rng(seed)
    x, w, b = rng.normal(size=(N, C, HH + more[0], WW + more[1])), rng.normal(size=(F, C, HH, WW)), rng.normal(size=F)
    out, cache = cs231n_a2.conv_forward_naive(x, w, b, {"stride": stride, "pad": pad})
    close(out, naive.conv2d(x, w, b, (stride, stride), ((pad, pad), (pad, pad))))
    layer = prepared(fastbp.Conv2d(C, F, (HH, WW), stride=stride, padding=pad), weight=w, bias=b)
    assert_same(layer, x, (out, lambda dout: cs231n_a2.conv_backward_naive(dout, cache)), rng)


POOLS = [
    (eecs598_hw1.max_pool_forward, eecs598_hw1.max_pool_backward),
    (cs231n_a2.max_pool_forward_naive, cs231n_a2.max_pool_backward_naive),
]


@pytest.mark.parametrize(("forward", "backward"), POOLS, ids=["eecs598", "cs231n"])
@given(N=dims(0), C=dims(1, 3), PH=dims(), PW=dims(), more=st.tuples(dims(0), dims(0)), stride=dims(), seed=seeds)
def test_max_pooling(forward, backward, N, C, PH, PW, more, stride, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, (N, C, PH + more[0], PW + more[1])).astype(float)  # many ties: the first maximum wins
    out, cache = forward(x, {"pool_height": PH, "pool_width": PW, "stride": stride})
    close(out, naive.max_pool2d(x, (PH, PW), (stride, stride))[0])
    assert_same(fastbp.MaxPool2d((PH, PW), stride=stride), x, (out, lambda dout: backward(dout, cache)), rng)


LOSSES = [
    (eecs598_hw1.svm_loss, fastbp.HingeLoss(), naive.hinge, True),
    (eecs598_hw1.logistic_loss, fastbp.LogisticLoss(), naive.logistic, True),
    (eecs598_hw1.softmax_loss, fastbp.SoftmaxCrossEntropy(), naive.softmax_cross_entropy, False),
    (cs231n_a2.svm_loss, fastbp.MulticlassHinge(), naive.multiclass_hinge, False),
    (cs231n_a2.softmax_loss, fastbp.SoftmaxCrossEntropy(), naive.softmax_cross_entropy, False),
]
LOSS_NAMES = [f"{function.__module__.split('.')[-1].split('_')[0]}-{function.__name__}" for function, *_ in LOSSES]


@pytest.mark.parametrize(("twin", "loss", "oracle", "binary"), LOSSES, ids=LOSS_NAMES)
@given(
    N=dims(), C=dims(), column=st.booleans(), signs=st.booleans(), scale=st.sampled_from([1e-3, 1, 1e3, 1e6]),
    whole=st.booleans(), seed=seeds,
)  # fmt: skip
def test_losses(twin, loss, oracle, binary, N, C, column, signs, scale, whole, seed):
    rng = np.random.default_rng(seed)
    shape = ((N, 1) if column else (N,)) if binary else (N, C)
    # whole: on the hinges' kinks
    x = rng.integers(-2, 3, shape).astype(float) if whole else rng.normal(size=shape) * scale
    y = rng.integers(0, 2 if binary else C, N)
    value, dx = twin(x, 2 * y - 1 if binary and signs else y)
    close(value, oracle(x.reshape(N) if binary else x, y))
    close(value, loss.forward(x, y))
    close(dx, loss.backward())


@BOTH
def test_unknown_modes_are_refused(twin):
    x = np.ones((2, 3))
    for call in (
        lambda: twin.batchnorm_forward(x, x[0], x[0], {"mode": "eval"}),
        lambda: twin.dropout_forward(x, {"mode": "eval", "p": 0.5}),
    ):
        with pytest.raises(ValueError, match="eval"):
            call()
