"""The same numbers as PyTorch in float64, where it is installed: forward, all gradients, and whole training runs."""

import numpy as np
import pytest

import fastbp

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytestmark = pytest.mark.peers
F = torch.nn.functional
rng = np.random.default_rng(0)


def twin(array):
    return torch.tensor(np.array(array), requires_grad=True)


LAYERS = {
    "Linear": (fastbp.Linear(5, 4), (3, 5), lambda x, w, b: F.linear(x, w, b)),
    "Conv2d": (fastbp.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 2)), (2, 3, 7, 6),
               lambda x, w, b: F.conv2d(x, w, b, stride=(2, 1), padding=(1, 2))),
    "Conv2d same": (fastbp.Conv2d(2, 3, (4, 3), padding="same"), (2, 2, 6, 5),
        lambda x, w, b: F.conv2d(x, w, b, padding="same")),
    "BatchNorm1d": (fastbp.BatchNorm1d(4), (6, 4), lambda x, g, b: F.batch_norm(x, None, None, g, b, training=True)),
    "BatchNorm2d": (fastbp.BatchNorm2d(3), (4, 3, 2, 5),
        lambda x, g, b: F.batch_norm(x, None, None, g, b, training=True)),
    "MaxPool2d": (fastbp.MaxPool2d(3, stride=2, padding=1), (2, 2, 7, 6), lambda x: F.max_pool2d(x, 3, 2, 1)),
    "AvgPool2d": (fastbp.AvgPool2d((3, 2), padding=1), (2, 2, 7, 6), lambda x: F.avg_pool2d(x, (3, 2), padding=1)),
    "ReLU": (fastbp.ReLU(), (3, 4), F.relu),
    "LeakyReLU": (fastbp.LeakyReLU(0.2), (3, 4), lambda x: F.leaky_relu(x, 0.2)),
    "Sigmoid": (fastbp.Sigmoid(), (3, 4), torch.sigmoid),
    "Tanh": (fastbp.Tanh(), (3, 4), torch.tanh),
    "GELU": (fastbp.GELU(), (3, 4), F.gelu),
    "GELU by tanh": (fastbp.GELU("tanh"), (3, 4), lambda x: F.gelu(x, approximate="tanh")),
    "SiLU": (fastbp.SiLU(), (3, 4), F.silu),
    "Scale": (fastbp.Scale(-0.3), (3, 4, 2), lambda x: -0.3 * x),
    "Scale, learned": (fastbp.Scale(0.7, learned=True), (3, 4), lambda x, w: w * x),
    "Softmax": (fastbp.Softmax(), (3, 4), lambda x: F.softmax(x, dim=1)),
    "LogSoftmax": (fastbp.LogSoftmax(), (3, 4), lambda x: F.log_softmax(x, dim=1)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    layer, shape, function = LAYERS[name]
    layer.astype(np.float64)
    x = rng.normal(size=shape)
    y = layer.forward(x, training=True)
    dout = rng.normal(size=y.shape)
    dx = layer.backward(dout)
    tensors = [twin(x), *(twin(p.value) for p in layer.parameters)]
    out = function(*tensors)
    out.backward(torch.tensor(dout))
    np.testing.assert_allclose(y, out.detach(), atol=1e-12)
    for gradient, tensor in zip([dx, *(p.grad for p in layer.parameters)], tensors, strict=True):
        np.testing.assert_allclose(gradient, tensor.grad, atol=1e-11)


LOSSES = {
    "softmax": (fastbp.SoftmaxCrossEntropy(), F.cross_entropy),
    "smoothed": (fastbp.SoftmaxCrossEntropy(0.2), lambda s, t: F.cross_entropy(s, t, label_smoothing=0.2)),
    "nll": (fastbp.NLLLoss(), F.nll_loss),
    "hinge": (fastbp.MulticlassHinge(), lambda s, t: F.multi_margin_loss(s, t) * s.shape[1]),
    "logistic": (fastbp.LogisticLoss(), lambda s, t: F.binary_cross_entropy_with_logits(s, t.double())),
    "squares": (fastbp.MeanSquaredError(), lambda s, t: F.mse_loss(s, t.double())),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    loss, function = LOSSES[name]
    scores = rng.normal(size=6 if name in ("logistic", "squares") else (6, 4))
    targets = rng.integers(0, 2 if scores.ndim == 1 else 4, 6)
    value, gradient = loss.forward(scores, targets), loss.backward()
    tensor = twin(scores)
    expected = function(tensor, torch.tensor(targets))
    expected.backward()
    assert value == pytest.approx(expected.item(), abs=1e-12)
    np.testing.assert_allclose(gradient, tensor.grad, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "other"),
    [
        (lambda: fastbp.SGD(0.1, momentum=0.9, weight_decay=0.01),
         lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01)),
        (lambda: fastbp.SGD(0.1, 0.9, nesterov=True), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True)),
        (lambda: fastbp.Adam(0.01, weight_decay=0.1), lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1)),
        (lambda: fastbp.AdamW(0.01, weight_decay=0.1), lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1)),
        (lambda: fastbp.RMSProp(0.01), lambda p: torch.optim.RMSprop(p, 0.01)),
        (lambda: fastbp.Adagrad(0.05), lambda p: torch.optim.Adagrad(p, 0.05)),
    ],
)  # fmt: skip
def test_ten_training_steps(make, other):
    network = fastbp.Sequential(
        fastbp.Conv2d(1, 4, 3, bias=False), fastbp.BatchNorm2d(4), fastbp.ReLU(), fastbp.MaxPool2d(2), fastbp.Flatten(),
        fastbp.Linear(36, 5), dtype=np.float64,
    )  # fmt: skip
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, bias=False), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(36, 5),
    ).double()  # fmt: skip
    with torch.no_grad():
        for tensor, parameter in zip(model.parameters(), network.parameters, strict=True):
            tensor.copy_(torch.tensor(parameter.value))
    trainer, optimizer = fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), make()), other(model.parameters())
    for step in range(10):
        data = np.random.default_rng(step)
        x, labels = data.normal(size=(7, 1, 8, 8)), data.integers(0, 5, 7)
        value = trainer.step(x, labels)
        optimizer.zero_grad()
        expected = F.cross_entropy(model(torch.tensor(x)), torch.tensor(labels))
        expected.backward()
        optimizer.step()
        assert value == pytest.approx(expected.item(), rel=1e-7)
    for tensor, parameter in zip(model.parameters(), network.parameters, strict=True):
        np.testing.assert_allclose(parameter.value, tensor.detach(), rtol=1e-7, atol=1e-9)
    for name in ("running_mean", "running_var"):
        np.testing.assert_allclose(network.layers[1].state[name], getattr(model[1], name), rtol=1e-7, atol=1e-9)


def test_pytorch_keeps_its_threads():
    """Training in the same process leaves PyTorch as many threads as it had."""
    before = torch.get_num_threads(), torch.get_num_interop_threads()
    network = fastbp.Sequential(fastbp.Linear(300, 600), fastbp.ReLU(), fastbp.Linear(600, 4))
    trainer = fastbp.Trainer(network, fastbp.SoftmaxCrossEntropy(), fastbp.SGD())
    for _ in range(3):
        trainer.step(rng.normal(size=(70, 300)).astype(np.float32), rng.integers(0, 4, 70))
    assert (torch.get_num_threads(), torch.get_num_interop_threads()) == before
