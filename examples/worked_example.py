"""Backpropagation by hand, step by step, beside the library's own: every number printed, every formula checked.

    python examples/worked_example.py [graph.png]

1. A graph of two layers of sigmoids: all values, all gradients, and ∂L/∂w3 by hand, by fastbp's graph and by finite
differences.
   The graph is drawn with values and gradients on its edges, to graph.png or to the file named.
2. Deep networks with linear activations are one linear layer.
3. Derivatives of sigmoid and tanh from their outputs alone.
4. The derivatives of a multi-layer perceptron in NumPy, beside those of fastbp's layers.
"""

import sys
from pathlib import Path

import numpy as np

import fastbp
from fastbp import graph
from fastbp.files import written_atomically


def heading(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}")


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


# -- 1. a graph of two layers ------------------------------------------------------------------------------------------

W = np.array([0.75, 0.63, 0.24, -1.7, 0.8, -0.2])  # w1 … w6
X = np.array([0.9, 1.1, -0.3, 0.8])  # x1 … x4
TARGET = 0.5  # ŷ


def forward(w: np.ndarray, x: np.ndarray, target: float) -> dict[str, float]:
    """Every value of the graph by name, in the order of computation, for w (6,) and x (4,)."""
    w1, w2, w3, w4, w5, w6 = w
    x1, x2, x3, x4 = x
    x12 = w1 * x1 + w2 * x2
    x5 = sigmoid(x12)
    x34 = w3 * x3 + w4 * x4
    x6 = sigmoid(x34)
    x7 = w5 * x5 + w6 * x6
    y = sigmoid(x7)
    return {"x12": x12, "x5": x5, "x34": x34, "x6": x6, "x7": x7, "y": y, "L": (y - target) ** 2}


def backward(w: np.ndarray, x: np.ndarray, target: float, v: dict[str, float]) -> dict[str, float]:
    """∂L/∂ of every value and every weight by name, in the order of the backward pass, from the values v of `forward`.

    Each line is the chain rule: the gradient of what the value goes into, times the derivative of that step. For a
    sigmoid s = σ(z) that derivative is s (1 − s).
    """
    g = {"L": 1.0}
    g["y"] = g["L"] * 2 * (v["y"] - target)
    g["x7"] = g["y"] * v["y"] * (1 - v["y"])
    g["w5"], g["w6"] = g["x7"] * v["x5"], g["x7"] * v["x6"]
    g["x5"], g["x6"] = g["x7"] * w[4], g["x7"] * w[5]
    g["x34"] = g["x6"] * v["x6"] * (1 - v["x6"])
    g["w3"], g["w4"] = g["x34"] * x[2], g["x34"] * x[3]
    g["x12"] = g["x5"] * v["x5"] * (1 - v["x5"])
    g["w1"], g["w2"] = g["x12"] * x[0], g["x12"] * x[1]
    return g


def in_the_graph(w: np.ndarray, x: np.ndarray, target: float) -> dict[str, graph.TensorNode]:
    """The same as nodes of fastbp's graph, after the backward pass; the graph is kept."""
    nodes = {f"w{i}": graph.TensorNode(value, name=f"w{i}") for i, value in enumerate(w, 1)}
    nodes |= {f"x{i}": graph.TensorNode(value, name=f"x{i}") for i, value in enumerate(x, 1)}
    w1, w2, w3, w4, w5, w6, x1, x2, x3, x4 = nodes.values()
    x12 = w1 * x1 + w2 * x2
    x5 = graph.sigmoid(x12)
    x34 = w3 * x3 + w4 * x4
    x6 = graph.sigmoid(x34)
    x7 = w5 * x5 + w6 * x6
    y = graph.sigmoid(x7)
    nodes |= {"x12": x12, "x5": x5, "x34": x34, "x6": x6, "x7": x7, "y": y, "L": (y - target) ** 2}
    for name, node in nodes.items():
        node.name = name
    nodes["L"].backward(keep_graph=True)
    return nodes


def by_finite_differences(w: np.ndarray, x: np.ndarray, target: float) -> np.ndarray:
    """∂L/∂w (6,) as fastbp's checker measures it; a GradientError if the gradient by hand is not the same."""

    def loss(w):
        v = forward(w, x, target)
        g = backward(w, x, target, v)
        return v["L"], np.array([g[f"w{i}"] for i in range(1, 7)])

    report = fastbp.check_gradients(loss, w)
    report.raise_if_failed()
    return report.tensors[0].measured[0]


def two_layers(figure: str) -> None:
    heading("1. Two layers of sigmoids: L = (y - 0.5)^2")
    v = forward(W, X, TARGET)
    g = backward(W, X, TARGET, v)
    nodes, numeric = in_the_graph(W, X, TARGET), by_finite_differences(W, X, TARGET)
    print(f"{'':3}  {'value':>9}  {'dL/d':>10}")
    for name in v:
        print(f"{name:3}  {v[name]:9.6f}  {g[name]:10.6f}")
    print(f"\n{'':3}  {'by hand':>12}  {'by the graph':>12}  {'differences':>12}")
    for i in range(1, 7):
        print(f"w{i:<2}  {g[f'w{i}']:12.9f}  {float(nodes[f'w{i}'].grad):12.9f}  {numeric[i - 1]:12.9f}")
    print(f"\ndL/dw3 = 2(y - 0.5) · y(1 - y) · w6 · x6(1 - x6) · x3 = {g['w3']:.5f}")
    with written_atomically(figure) as file:
        graph.draw(nodes["L"]).savefig(file, format=Path(figure).suffix[1:] or "png", dpi=130)
    print(f"the graph is drawn in {figure}")


# -- 2. linear layers collapse -----------------------------------------------------------------------------------------


def deep_linear(sizes: tuple[int, ...], seed: int = 0) -> fastbp.Sequential:
    """Linear layers with linear activations between them; random weights and biases."""
    layers = []
    for D, F in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [fastbp.Linear(D, F), fastbp.Identity()]
    network = fastbp.Sequential(*layers, dtype=np.float64)
    network.parameter_vector[:] = np.random.default_rng(seed).normal(size=network.parameter_vector.shape)
    return network


def fold(layers) -> tuple[np.ndarray, np.ndarray]:
    """(W, b) of the one linear layer that the layers are: W2 (W1 x + b1) + b2 = (W2 W1) x + (W2 b1 + b2), and so on."""
    weight, bias = layers[0].weight.value, layers[0].bias.value
    for layer in layers[1:]:
        weight, bias = layer.weight.value @ weight, layer.weight.value @ bias + layer.bias.value
    return weight, bias


def folded_layer(network: fastbp.Sequential) -> fastbp.Linear:
    """One Linear that computes what the network does."""
    weight, bias = fold(linear_layers(network))
    layer = fastbp.Linear(weight.shape[1], weight.shape[0]).astype(np.float64)
    layer.weight.value, layer.bias.value = weight, bias
    return layer


def linear_layers(network: fastbp.Sequential) -> list[fastbp.Linear]:
    return [layer for layer in network.layers if isinstance(layer, fastbp.Linear)]


def gradients_through_the_fold(
    network: fastbp.Sequential, folded: fastbp.Linear
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(∂L/∂Wk, ∂L/∂bk) of each layer k from the gradients G = ∂L/∂W and d = ∂L/∂b of the folded layer alone.

    With A the product of the weights after layer k, and B x + c what the layers before it compute:
        ∂L/∂Wk = Aᵀ (G Bᵀ + d cᵀ)        ∂L/∂bk = Aᵀ d
    """
    layers, G, d, gradients = linear_layers(network), folded.weight.grad, folded.bias.grad, []
    for k, layer in enumerate(layers):
        A = np.eye(layer.out_features) if k + 1 == len(layers) else fold(layers[k + 1 :])[0]
        B, c = (np.eye(layer.in_features), np.zeros(layer.in_features)) if k == 0 else fold(layers[:k])
        gradients.append((A.T @ (G @ B.T + np.outer(d, c)), A.T @ d))
    return gradients


def collapse() -> None:
    heading("2. A deep network with linear activations is one linear layer")
    rng = np.random.default_rng(1)
    network = deep_linear((6, 50, 40, 30, 3))
    folded, x, dout = folded_layer(network), rng.normal(size=(8, 6)), rng.normal(size=(8, 3))
    y = network.forward(x)
    whole, fold = network.parameter_vector.size, folded.weight.size + folded.bias.size
    print(f"6-50-40-30-3: {whole:,} parameters; folded: {fold}")
    print(f"outputs differ by {difference(y, folded.forward(x)):.0e} of the largest")
    print(f"dL/dx differs by {difference(network.backward(dout), folded.backward(dout)):.0e}")
    for k, (layer, pair) in enumerate(
        zip(linear_layers(network), gradients_through_the_fold(network, folded), strict=True), 1
    ):
        dw, db = difference(layer.weight.grad, pair[0]), difference(layer.bias.grad, pair[1])
        print(f"layer {k}: dL/dW from the folded layer's gradient differs by {dw:.0e}, dL/db by {db:.0e}")


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, relative to the largest element of a."""
    return float(np.abs(a - b).max() / np.abs(a).max())


# -- 3. derivatives from the output alone ------------------------------------------------------------------------------


def sigmoid_forward(x):
    y = sigmoid(x)
    return y, y


def sigmoid_backward(dout, y):
    """σ' = σ (1 − σ): of x nothing is kept but y."""
    return dout * y * (1 - y)


def tanh_forward(x):
    """tanh(x) = 2 σ(2x) − 1"""
    s = sigmoid(2 * x)
    return 2 * s - 1, s


def tanh_backward(dout, s):
    """tanh' = 2 · 2 σ'(2x) = 4 s (1 − s), which is 1 − tanh²: tanh = 2s − 1 gives 1 − (2s − 1)² = 4 s (1 − s)."""
    return dout * 4 * s * (1 - s)


def derivatives() -> None:
    heading("3. Derivatives from the output alone")
    x = np.linspace(-4, 4, 9)
    print(fastbp.check_gradients((sigmoid_forward, sigmoid_backward), x))
    print(fastbp.check_gradients((tanh_forward, tanh_backward), x))
    y, s = tanh_forward(x)
    print(f"tanh through the sigmoid differs from tanh by {np.abs(y - np.tanh(x)).max():.0e}")
    print(f"4 s (1 - s) differs from 1 - tanh^2 by {np.abs(4 * s * (1 - s) - (1 - np.tanh(x) ** 2)).max():.0e}")


# -- 4. the multi-layer perceptron -------------------------------------------------------------------------------------


def perceptron(parameters: list[tuple[np.ndarray, np.ndarray]], x: np.ndarray, target: np.ndarray):
    """(loss, [(dW, db) of each layer], dx) of a sigmoid perceptron with the mean squared error, by its formulas.

    Samples are columns: x (D, N), target (F, N), W (F, D), b (F,). With h₀ = x, for each layer
        hₖ = f(Wₖ hₖ₋₁ + bₖ)        L = mean of (h_last − target)²

    and back, with f' = hₖ (1 − hₖ), · between arrays of one shape element by element:
        ∂L/∂h_last = 2 (h_last − target) / (number of its elements)
        ∂L/∂Wₖ   = (f' · ∂L/∂hₖ) hₖ₋₁ᵀ        the product sums over the samples
        ∂L/∂bₖ   = Σ over the samples of f' · ∂L/∂hₖ
        ∂L/∂hₖ₋₁ = Wₖᵀ (f' · ∂L/∂hₖ)
    """
    h = [x]
    for weight, bias in parameters:
        h.append(sigmoid(weight @ h[-1] + bias[:, None]))
    loss, dh = np.mean((h[-1] - target) ** 2), 2 * (h[-1] - target) / target.size
    gradients = []
    for (weight, _), below, above in reversed(list(zip(parameters, h[:-1], h[1:], strict=True))):
        dz = above * (1 - above) * dh
        gradients.append((dz @ below.T, dz.sum(axis=1)))
        dh = weight.T @ dz
    return loss, gradients[::-1], dh


def multi_layer_perceptron() -> None:
    heading("4. The multi-layer perceptron, formulas beside layers")
    rng = np.random.default_rng(2)
    x, target = rng.normal(size=(16, 5)), rng.uniform(size=(16, 3))
    network = sigmoid_network((5, 20, 10, 3))
    loss, gradients, dx = perceptron(parameters_of(network), x.T, target.T)
    squared = fastbp.MeanSquaredError()
    print(f"5-20-10-3: loss {loss:.12f} by formulas, {squared.forward(network.forward(x), target):.12f} by layers")
    print(f"dL/dx differs by {difference(network.backward(squared.backward()), dx.T):.0e} of the largest")
    for k, (layer, (dw, db)) in enumerate(zip(linear_layers(network), gradients, strict=True), 1):
        of_weight, of_bias = difference(layer.weight.grad, dw), difference(layer.bias.grad, db)
        print(f"layer {k}: dW differs by {of_weight:.0e}, db by {of_bias:.0e}")


def sigmoid_network(sizes: tuple[int, ...]) -> fastbp.Sequential:
    layers = []
    for D, F in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [fastbp.Linear(D, F, init="glorot_normal"), fastbp.Sigmoid()]
    return fastbp.Sequential(*layers, dtype=np.float64, seed=3)


def parameters_of(network: fastbp.Sequential) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(layer.weight.value, layer.bias.value) for layer in linear_layers(network)]


def main(figure: str = "graph.png") -> None:
    two_layers(figure)
    collapse()
    derivatives()
    multi_layer_perceptron()


if __name__ == "__main__":
    main(*sys.argv[1:2])
