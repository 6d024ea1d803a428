"""Changing images at random while a network is trained: callables for `fit(augment=…)`, given x and a generator."""

import numpy as np

from ..arguments import LARGEST, array, instance, whole


class RandomFlip:
    """Mirrors each image left to right with probability one half:   y[n, c, i, j] = x[n, c, i, W − 1 − j]

    x (N, C, H, W), of numbers of any dtype; the result is a new array like it. ValueError for another shape, TypeError
    for another kind of x or rng.

    >>> x = np.arange(9.0).reshape(3, 1, 1, 3)
    >>> RandomFlip()(x, np.random.default_rng(0)).reshape(3, 3)
    array([[0., 1., 2.],
           [5., 4., 3.],
           [8., 7., 6.]])
    """

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        x = _images("RandomFlip", x, rng)
        y = x.copy()
        for i in np.flatnonzero(rng.random(len(x)) < 0.5):
            y[i] = x[i, :, :, ::-1]  # image by image: faster than np.where over all of them
        return y


class RandomCrop:
    """Pads each image with `padding` zeros on every side and cuts out a window of the image's size, at a random place.

    x (N, C, H, W), of numbers of any dtype; the result is a new array like it. Each of the (2 · padding + 1)² places is
    as likely as any other. The padding is 0 in the scaling that x has: after `normalize` that is the mean pixel, in
    images from 0 to 1 black. ValueError for another shape, TypeError for another kind of x or rng.
    """

    def __init__(self, padding: int = 4):
        self.padding = whole("RandomCrop: padding", padding, most=LARGEST // 2)  # 2 · padding + 1 places are numbered

    def __call__(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        x = _images("RandomCrop", x, rng)
        N, C, H, W = x.shape
        shifts = rng.integers(0, 2 * self.padding + 1, (N, 2)) - self.padding
        p, q = min(self.padding, H), min(self.padding, W)  # nothing of the image is left beyond its own size
        padded = np.zeros((N, C, H + 2 * p, W + 2 * q), x.dtype)
        padded[:, :, p : p + H, q : q + W] = x
        y = np.empty(x.shape, x.dtype)
        # image by image: as fast as one index into sliding_window_view, and faster for few images
        for i, (top, left) in enumerate((shifts.clip((-p, -q), (p, q)) + (p, q)).tolist()):
            y[i] = padded[i, :, top : top + H, left : left + W]
        return y


def _images(who: str, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    x = array(f"{who}: x", x)
    instance(f"{who}: rng", rng, np.random.Generator, "numpy.random.Generator")
    if x.ndim != 4:
        raise ValueError(f"{who}: expected images (N, C, H, W), got {x.shape} as x")
    return x
