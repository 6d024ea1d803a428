"""A published recipe's training step against PyTorch's: frozen whitening filters, batch norm without gamma, biases with
their own rate and decay, label smoothing, Nesterov's momentum."""

import sys
from pathlib import Path

import numpy as np
import pytest

import fastbp

torch = pytest.importorskip("torch")
nn = torch.nn

rng = np.random.default_rng(0)
X, LABELS = rng.normal(size=(32, 3, 16, 16)), rng.integers(0, 10, 32)
FACTORS = (0.2, 1.0, 0.6, 0.1)  # of the learning rate, step by step


def twin(widths):
    """The network as the recipe's author builds it, and its optimiser's groups: batch norm's biases, and the others."""
    layers, channels, norms = [nn.Conv2d(3, 24, 2), nn.GELU()], 24, []
    for filters in widths:
        convolutions = [nn.Conv2d(c, filters, 3, padding="same", bias=False) for c in (channels, filters)]
        norms += [nn.BatchNorm2d(filters, eps=1e-12, momentum=0.4) for _ in range(2)]
        layers += [convolutions[0], nn.MaxPool2d(2), norms[-2], nn.GELU(), convolutions[1], norms[-1], nn.GELU()]
        channels = filters
    layers += [nn.Flatten(), nn.Linear(channels * 1 * 1, 10, bias=False)]
    net = nn.Sequential(*layers).double()
    net[0].weight.requires_grad = False
    for norm in norms:
        norm.weight.requires_grad = False
    biases = [norm.bias for norm in norms]
    others = [p for p in net.parameters() if p.requires_grad and all(p is not bias for bias in biases)]
    return net, biases, others


def copy_values(ours, theirs):
    names = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
    with torch.no_grad():
        for layer, module in zip(ours.layers, theirs, strict=False):
            for parameter in layer.parameters:
                getattr(module, names[parameter.name]).copy_(torch.tensor(parameter.value))


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
def test_steps_of_the_recipe_are_pytorchs(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "examples"))
    sys.modules.pop("cifar10_94", None)
    import cifar10_94 as recipe

    monkeypatch.setattr(recipe, "WIDTHS", (26, 28, 30))
    whole = recipe.network(X, seed=0)
    layers = [layer for layer in whole.layers if not isinstance(layer, fastbp.MaxPool2d) or layer.kernel_size == (2, 2)]
    layers = [fastbp.Linear(30, 10, bias=False) if isinstance(layer, fastbp.Linear) else layer for layer in layers]
    del whole  # images of 16×16 come to one pixel without the last pool
    ours = fastbp.Sequential(*layers, seed=1).astype(np.float64)
    theirs, biases, others = twin(recipe.WIDTHS)
    copy_values(ours, theirs)
    assert [name for name, p in ours.named_parameters.items() if not p.requires_grad] == [
        "0.weight", *(f"{k}.gamma" for k, layer in enumerate(ours.layers) if isinstance(layer, fastbp.BatchNorm2d))
    ]  # fmt: skip

    scale = 1024 * (1 + 1 / (1 - 0.85))  # the author's numbers, for a sum over samples
    rate, decay = 11.5 / scale, 0.0153 * len(X) / scale
    groups = [
        {"params": biases, "lr": 64 * rate, "weight_decay": decay / (64 * rate)},
        {"params": others, "lr": rate, "weight_decay": decay / rate},
    ]
    theirs_sgd = torch.optim.SGD(groups, momentum=0.85, nesterov=True)
    trainer = fastbp.Trainer(ours, fastbp.SoftmaxCrossEntropy(label_smoothing=0.2), recipe.optimizer(len(X)))
    peak = trainer.optimizer.lr
    for factor in FACTORS:
        trainer.optimizer.lr = peak * factor
        for group, base in zip(theirs_sgd.param_groups, (64 * rate, rate), strict=True):
            group["lr"] = base * factor
        scores = theirs(torch.tensor(X)) / 9
        loss = nn.functional.cross_entropy(scores, torch.tensor(LABELS), label_smoothing=0.2, reduction="sum")
        theirs_sgd.zero_grad()
        loss.backward()
        theirs_sgd.step()
        assert trainer.step(X, LABELS) == pytest.approx(loss.item() / len(X), rel=1e-11)
    state = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters.items():
        wanted = state[name.replace("gamma", "weight").replace("beta", "bias")].detach().numpy()
        np.testing.assert_allclose(parameter.value, wanted, rtol=0, atol=1e-10, err_msg=name)
