"""What a contributor pays: layers, a fused pair and an optimiser from outside the package train as its own do."""

import copy

import bill
import numpy as np
import pytest
from bill import ConvTranspose2d, LayerNorm, Lion, Softsign
from branched import machine
from op_proofs import Proof, made

import fastbp
from fastbp.engine import Setting, ops

LOSS = fastbp.SoftmaxCrossEntropy
LAYERS = {
    "Softsign": (lambda: Softsign(), (3, 2)),
    "LayerNorm": (lambda: LayerNorm(7), (7,)),
    "ConvTranspose2d": (lambda: ConvTranspose2d(3, 2, (3, 2), stride=(2, 1), padding=(1, 0)), (3, 4, 3)),
    "ConvTranspose2d, stride 1": (lambda: ConvTranspose2d(2, 3, 3, padding=1), (2, 11, 10)),
    "ConvTranspose2d, Winograd": (lambda: ConvTranspose2d(8, 9, 3), (8, 5, 4)),
}


@pytest.fixture(autouse=True)
def table():
    """The entries of the bill, as long as a test lasts."""
    before, threads = ops.TABLE[:], fastbp.get_num_threads()
    bill.enter()
    yield
    ops.TABLE[:] = before
    fastbp.set_num_threads(threads)


def spread(layer, rng):
    """Parameters that are none of 0 and 1."""
    for parameter in layer.parameters:
        parameter.value = rng.normal(size=parameter.shape)
    return layer


def softsign(layer, x):
    return np.array([v / (1 + abs(v)) for v in x.ravel()]).reshape(x.shape)


def layer_norm(layer, x):
    y = np.empty_like(x)
    for n, row in enumerate(x):
        mean, var = sum(row) / len(row), sum((v - sum(row) / len(row)) ** 2 for v in row) / len(row)
        for d, v in enumerate(row):
            y[n, d] = layer.gamma.value[d] * (v - mean) / (var + layer.eps) ** 0.5 + layer.beta.value[d]
    return y


def conv_transpose(layer, x):
    """Each pixel of x puts its filters into y, which has padding around it that is cut off."""
    (N, C, H, W), (F, OH, OW) = x.shape, layer.output_shape(x.shape[1:])
    (KH, KW), (sh, sw), (ph, pw) = map(layer.pair, (layer.kernel_size, layer.stride, layer.padding))
    wide = np.zeros((N, F, OH + 2 * ph, OW + 2 * pw))
    for n, c, i, j in np.ndindex(N, C, H, W):
        for f, p, q in np.ndindex(F, KH, KW):
            wide[n, f, i * sh + p, j * sw + q] += x[n, c, i, j] * layer.weight.value[c, f, p, q]
    return wide[:, :, ph : ph + OH, pw : pw + OW] + layer.bias.value[:, None, None]


ORACLES = {Softsign: softsign, LayerNorm: layer_norm, ConvTranspose2d: conv_transpose}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_against_naive_loops_and_finite_differences(name):
    make, shape = LAYERS[name]
    rng = np.random.default_rng(0)
    layer = spread(make().astype(np.float64), rng)
    x = rng.normal(size=(3, *shape))
    np.testing.assert_allclose(layer.forward(x), ORACLES[type(layer)](layer, x), rtol=1e-12, atol=1e-12)
    assert fastbp.check_gradients(layer, x, mode="sampled", smallest=False).passed
    narrow = copy.deepcopy(layer).astype(np.float32)
    np.testing.assert_allclose(narrow.forward(x.astype(np.float32)), layer.forward(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_an_op_is_as_good_as_its_word(name, training):
    make, shape = LAYERS[name]
    rng = np.random.default_rng(1)
    layer = spread(make().astype(np.float64), rng)
    (op,) = made(ops.TABLE[[e.kinds for e in ops.TABLE].index((type(layer),))], (layer,), (shape,),
                 Setting(4, np.dtype(np.float64), training))  # fmt: skip
    op.x[...] = rng.normal(size=op.x.shape)
    assert list(Proof(op, rng).faults()) == []


def network(dtype=np.float32):
    return fastbp.Sequential(
        fastbp.Conv2d(3, 8, 3, stride=2, padding=1), Softsign(),
        fastbp.Residual(
            fastbp.Conv2d(8, 4, 3, padding=1), Softsign(), fastbp.MaxPool2d(2), ConvTranspose2d(4, 8, 4, 2, 1)
        ),
        fastbp.Flatten(), fastbp.Linear(512, 30), LayerNorm(30), fastbp.ReLU(), fastbp.Linear(30, 10),
        dtype=dtype, seed=4,
    )  # fmt: skip


def batch(N=12, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(N, 3, 16, 16)).astype(dtype), rng.integers(0, 10, N)


def test_a_network_trains_as_one_program(tmp_path):
    """Also after it was saved and loaded; with the same bits on any number of threads."""
    found = set()
    for count in (1, 2, 4):
        fastbp.set_num_threads(count)
        trained = network()
        trained.machine = machine(3)
        trainer = fastbp.Trainer(trained, LOSS(), Lion(lr=1e-3, weight_decay=0.01))
        losses = [trainer.step(*batch()) for _ in range(20)]
        assert losses[-1] < losses[0] / 2
        found.add(trained.parameter_vector.tobytes())
    assert len(found) == 1
    step = trained.engine((3, 16, 16)).batch(12, True).step
    assert [type(call).__name__ for call in step.program] == ["Program"]
    lines = str(trained.engine((3, 16, 16)))
    assert "own forward" not in lines
    assert all(
        name in lines
        for name in ("SoftsignOp", "LayerNormOp", "SoftsignPool", "ConvTransposeOp: a convolution's way back")
    )
    trained.save(tmp_path / "network.npz")
    loaded, (x, _) = fastbp.load(tmp_path / "network.npz"), batch(5)
    assert fastbp.outputs(loaded, x).tobytes() == fastbp.outputs(trained, x).tobytes()


def test_the_networks_gradients():
    x, targets = batch(4, np.float64)
    report = fastbp.check_gradients(network(), x, targets, loss=LOSS(), mode="directional", smallest=False)
    assert report.passed


@pytest.mark.parametrize("pool", [fastbp.MaxPool2d(2), fastbp.MaxPool2d(3, 2, 1)])
def test_a_fused_pair_gives_what_its_layers_give(pool):
    rng = np.random.default_rng(2)
    pair = fastbp.Sequential(Softsign(), copy.deepcopy(pool), dtype=np.float64)
    for cut in (None, 1):
        if cut:
            pair.machine = machine(cut)
        x = rng.normal(size=(3, 2, 7, 8))
        engine = pair.engine(x.shape[1:])
        np.testing.assert_allclose(engine.forward(x, training=True), pair.forward(x), rtol=1e-13)
        dout = rng.normal(size=pair.forward(x).shape)
        np.testing.assert_allclose(engine.backward(dout), pair.backward(dout), rtol=1e-12, atol=1e-14)
    assert "SoftsignPool" in str(engine)
    x[1, 0, 3, 3] = np.nan
    np.testing.assert_array_equal(np.isnan(engine.forward(x)), np.isnan(pair.forward(x)))


def test_the_pair_is_not_taken_where_it_is_not_in_the_table():
    del ops.TABLE[[entry.kinds for entry in ops.TABLE].index((Softsign, fastbp.MaxPool2d))]
    assert "SoftsignPool" not in str(fastbp.Sequential(Softsign(), fastbp.MaxPool2d(2)).engine((1, 4, 4)))


def test_an_entry_of_ones_own_comes_before_the_packages():
    class Mine(fastbp.layers.linear.LinearOp):
        how = "mine"

    fastbp.engine.computes(fastbp.Linear, when=lambda layers, shape, setting: shape == (3,))(Mine)
    lines = str(fastbp.Sequential(fastbp.Linear(3, 4), fastbp.Softmax(), fastbp.Linear(4, 2)).engine((3,))).splitlines()
    assert [line.endswith("Mine: mine") for line in lines] == [True, False, False]


def test_lion_by_its_formula():
    rng = np.random.default_rng(3)
    values, mean, lion = rng.normal(size=50), np.zeros(50), Lion(0.01, weight_decay=0.1)
    ours = values.copy()
    for _ in range(5):
        g = rng.normal(size=50)
        values, mean = values - 0.01 * (np.sign(0.9 * mean + 0.1 * g) + 0.1 * values), 0.99 * mean + 0.01 * g
        lion.step(ours, g)
    np.testing.assert_allclose(ours, values, rtol=1e-12)


def test_a_setting_of_a_layer_of_ones_own_counts_at_once():
    trained = network(np.float64)
    x, _ = batch(3, np.float64)
    engine, before = trained.engine((3, 16, 16)), fastbp.outputs(trained, x)
    trained.layers[5].eps = 0.5
    assert trained.engine((3, 16, 16)) is engine  # nothing is made anew
    np.testing.assert_allclose(fastbp.outputs(trained, x), trained.forward(x), rtol=1e-10)
    assert np.abs(trained.forward(x) - before).max() > 1e-6


class SingleRows(fastbp.layers.Container):
    """A fused row whose layers' parameters do not follow one another in the network's vector"""

    def connect(self, x, place):
        return place(self.first, place(self.second, x))


def test_a_row_is_taken_only_where_its_parameters_follow_each_other():
    class Both(ops.Op):
        def __init__(self, *arguments):
            raise AssertionError("taken")

    fastbp.engine.computes(fastbp.Linear, LayerNorm)(Both)
    in_order = fastbp.Sequential(fastbp.Linear(4, 4), LayerNorm(4))
    with pytest.raises(AssertionError, match="taken"):
        str(in_order.engine((4,)))
    turned = fastbp.Sequential(SingleRows(first=LayerNorm(4), second=fastbp.Linear(4, 4)))
    assert "LayerNormOp" in str(turned.engine((4,)))


@pytest.mark.peers
def test_against_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    F = torch.nn.functional
    functions = {
        "Softsign": lambda x: F.softsign(x),
        "LayerNorm": lambda x, g, b: F.layer_norm(x, (7,), g, b),
        "ConvTranspose2d": lambda x, w, b: F.conv_transpose2d(x, w, b, stride=(2, 1), padding=(1, 0)),
        "ConvTranspose2d, stride 1": lambda x, w, b: F.conv_transpose2d(x, w, b, padding=1),
        "ConvTranspose2d, Winograd": lambda x, w, b: F.conv_transpose2d(x, w, b),
    }
    for name, (make, shape) in LAYERS.items():
        rng = np.random.default_rng(5)
        layer = spread(make().astype(np.float64), rng)
        x = rng.normal(size=(3, *shape))
        y = layer.forward(x)
        dout = rng.normal(size=y.shape)
        tensors = [torch.tensor(array, requires_grad=True) for array in (x, *(p.value for p in layer.parameters))]
        theirs = functions[name](*tensors)
        theirs.backward(torch.tensor(dout))
        np.testing.assert_allclose(y, theirs.detach().numpy(), atol=1e-12, err_msg=name)
        dx = layer.backward(dout)
        for gradient, tensor in zip([dx, *(p.grad for p in layer.parameters)], tensors, strict=True):
            np.testing.assert_allclose(gradient, tensor.grad.numpy(), atol=1e-11, err_msg=name)
