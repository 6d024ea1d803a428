"""Networks that branch give the gradients that PyTorch gives, in float64, where it is installed."""

import branched
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastbp

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytestmark = pytest.mark.peers
nn = torch.nn


class Sum(nn.Module):
    def __init__(self, body, shortcut):
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x):
        return self.body(x) + (x if self.shortcut is None else self.shortcut(x))


class Side(nn.Module):
    def __init__(self, branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def twin(layer) -> nn.Module:
    """The same in PyTorch, with parameters of its own in the same order."""
    kind = type(layer).__name__
    if kind == "Residual":
        shortcut = layer.shortcut
        return Sum(nn.Sequential(*map(twin, layer.layers)), None if shortcut is None else twin(shortcut))
    if kind == "Concat":
        return Side(map(twin, layer.branches))
    if kind == "Sequential":
        return nn.Sequential(*map(twin, layer.layers))
    if kind == "Linear":
        return nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    if kind == "Conv2d":
        sizes = layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding
        return nn.Conv2d(*sizes, bias=layer.bias is not None)
    if kind.startswith("BatchNorm"):
        return getattr(nn, kind)(layer.num_features)
    if kind.endswith("Pool2d"):
        return getattr(nn, kind)(layer.kernel_size, layer.stride, layer.padding)
    if kind.endswith("Softmax"):
        return getattr(nn, kind)(dim=1)
    return nn.LeakyReLU(layer.negative_slope) if kind == "LeakyReLU" else getattr(nn, kind)()


def compare(network, x, targets, atol):
    """AssertionError unless a training pass and the prediction after it give what PyTorch gives."""
    model = twin(network).double()
    with torch.no_grad():
        for tensor, parameter in zip(model.parameters(), network.parameters, strict=True):
            tensor.copy_(torch.tensor(parameter.value))
    inputs = torch.tensor(x, requires_grad=True)
    value = nn.functional.cross_entropy(model(inputs), torch.tensor(targets))
    value.backward()
    engine, loss = network.engine(x.shape[1:]), fastbp.SoftmaxCrossEntropy()
    assert loss.forward(engine.forward(x, training=True), targets) == pytest.approx(value.item(), rel=1e-12)
    dx = engine.backward(loss.backward())
    pairs = [(dx, inputs.grad)] + [
        (p.grad, q.grad) for p, q in zip(network.parameters, model.parameters(), strict=True)
    ]
    scale = max(1.0, *(float(theirs.abs().max()) for _, theirs in pairs))
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=atol * scale)
    running = [array for name, array in network.state_dict().items() if "running" in name]
    theirs = [array.numpy() for name, array in model.named_buffers() if "running" in name]
    for a, b in zip(running, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        expected = model.eval()(inputs).numpy()
    np.testing.assert_allclose(engine.forward(x), expected, rtol=1e-9, atol=1e-9 * max(1, np.abs(expected).max()))


def block(C, F, stride):
    shortcut = fastbp.Conv2d(C, F, 1, stride=stride, bias=False) if (C, stride) != (F, 1) else None
    return [
        fastbp.Residual(
            fastbp.Conv2d(C, F, 3, stride=stride, padding=1, bias=False), fastbp.BatchNorm2d(F), fastbp.ReLU(),
            fastbp.Conv2d(F, F, 3, padding=1, bias=False), fastbp.BatchNorm2d(F), shortcut=shortcut,
        ),
        fastbp.ReLU(),
    ]  # fmt: skip


def resnet(widths=(8, 16, 24, 32)):
    """8 blocks, two of each width; the first of a width but the first halves the maps."""
    C = widths[0]
    layers = [fastbp.Conv2d(3, C, 3, padding=1, bias=False), fastbp.BatchNorm2d(C), fastbp.ReLU()]
    for F in widths:
        layers += [*block(C, F, 1 if C == F else 2), *block(F, F, 1)]
        C = F
    layers += [fastbp.AvgPool2d(4), fastbp.Flatten(), fastbp.Linear(C, 10)]
    return fastbp.Sequential(*layers, dtype=np.float64, seed=2)


@pytest.mark.parametrize("cut", [None, 1, 2])
def test_a_residual_network_of_eight_blocks(cut):
    network = resnet()
    assert sum(isinstance(layer, fastbp.Residual) for layer in network.layers) == 8
    assert sum(layer.shortcut is not None for layer in network.layers if isinstance(layer, fastbp.Residual)) == 3
    if cut is not None:
        network.machine = branched.machine(cut)
    compare(network, *branched.data(4, shape=(3, 32, 32), classes=10), atol=1e-12)


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@settings(max_examples=10)
@given(st.integers(0, 299))
def test_networks_drawn_at_random(seed):
    compare_drawn(seed)


def compare_drawn(seed):
    network, shape, N = branched.drawn(seed, own=False)
    if seed % 2:
        network.machine = branched.machine(seed)
    compare(network, *branched.data(N, seed=seed, shape=shape, classes=3), atol=1e-10)
