"""A layer of your own, checked and trained: the softplus y = log(1 + eˣ), a smooth ReLU.

    python examples/own_layer.py

It needs no more than a forward, a backward and an output shape. Plain NumPy will do.
"""

import numpy as np

import fastbp


class Softplus(fastbp.Layer):
    """y = log(1 + eˣ) of each element.   dx = dout · σ(x)"""

    def forward(self, x, training=False, out=None):
        x = self.expect(x, ...)
        y = self.buffer(out, x.shape, x)
        np.logaddexp(0, x, out=y)
        self.cache = (x,)
        return y

    def backward(self, dout, need_dx=True, out=None):
        (x,) = self.cache
        dout = self.expect(dout, *x.shape, what="dout")
        dx = self.buffer(out, x.shape, dout)
        np.multiply(dout, 0.5 * (1 + np.tanh(x / 2)), out=dx)
        return dx

    def output_shape(self, input_shape):
        return tuple(input_shape)


def main() -> None:
    x = np.random.default_rng(0).normal(size=(4, 3))
    report = fastbp.check_gradients(Softplus(), x)
    print(report)
    report.raise_if_failed()

    data = fastbp.datasets.digits()
    network = fastbp.Sequential(fastbp.Flatten(), fastbp.Linear(64, 100), Softplus(), fastbp.Linear(100, 10), seed=1)
    fastbp.fit(network, fastbp.SoftmaxCrossEntropy(), fastbp.Adam(lr=0.01), data.train, epochs=20)
    accuracy = fastbp.evaluate(network, fastbp.SoftmaxCrossEntropy(), data.test).accuracy
    print(f"digits, test accuracy {accuracy:.2%}")


if __name__ == "__main__":
    main()
