"""What both assignments draw, ask and accept alike. A `draw(rng, …)` gives a function's arguments by name."""

from .. import references
from ..assignment import Case, Convention
from ..inputs import labels, sizes, spread

RUNNING = ("bn_param", ("running_mean", "running_var"))
KEEP, DROP = "p is the probability to keep, {}", "p is the probability to drop, {}"

# -- inputs -----------------------------------------------------------------------------------------------------------


def fc(rng, N=None, image=False):
    n, D, M = sizes(rng, (2, 5), (3, 6), (2, 5))
    N = N or n
    x = spread(rng, N, D, 2) if image else spread(rng, N, D)
    return {"x": x, "w": spread(rng, x.size // N, M), "b": spread(rng, M)}


def batchnorm(rng, mode="train", N=None, offset=0.0):
    n, D = sizes(rng, (4, 7), (2, 5))
    N = N or n
    running = {"running_mean": spread(rng, D), "running_var": rng.uniform(0.5, 2.0, D)}
    bn_param = {"mode": mode, "eps": 1e-5, "momentum": 0.9, **running}
    x = spread(rng, N, D) * rng.uniform(0.5, 3.0, D) + offset
    return {"x": x, "gamma": rng.uniform(0.5, 2.0, D), "beta": spread(rng, D), "bn_param": bn_param}


def dropout(rng, mode="train", large=False):
    shape, shares = ((20, 25), [0.3, 0.4, 0.7, 0.8]) if large else (sizes(rng, (3, 4), (5, 6)), [0.7])
    return {"x": spread(rng, *shape), "dropout_param": {"mode": mode, "p": float(rng.choice(shares)), "seed": 7}}


def max_pool(rng, N=None, stride=2, size=(2, 2), rest=(0, 0)):
    n, C = sizes(rng, (2, 3), (1, 3))
    H, W = sizes(rng, (2, 3), (2, 3))
    H, W = (size[0] + stride * (H - 1) + rest[0], size[1] + stride * (W - 1) + rest[1])
    pool_param = {"pool_height": size[0], "pool_width": size[1], "stride": stride}
    return {"x": spread(rng, N or n, C, H, W), "pool_param": pool_param}


def classes(rng, N=None, scale=2.0):
    n, C = sizes(rng, (3, 6), (3, 6))
    N = N or n
    return {"x": spread(rng, N, C) * (scale / 2), "y": labels(rng, N, C)}


# -- cases and conventions ---------------------------------------------------------------------------------------------


def loss_cases(draw):
    return (
        Case("random scores", draw, gradients=True),
        Case("a batch of one", lambda rng: draw(rng, N=1), gradients=True),
        Case("scores as large as 1000", lambda rng: draw(rng, scale=1000.0), gradients=True),
        Case("an array that is not contiguous", draw, strided=True),
    )


def loss_conventions(make):
    return (
        Convention("mean over the batch", references.loss(make)),
        Convention("summed over the batch", references.loss(make, summed=True), accepted=False),
    )


def batch_norms(spatial=False):
    biased = references.batch_norm(spatial=spatial)
    unbiased = references.batch_norm(unbiased_running=True, spatial=spatial)
    reversed_momentum = references.batch_norm(reversed_momentum=True, spatial=spatial)
    return (
        Convention("running variance from the biased variance", biased),
        Convention("running variance from the unbiased variance", unbiased),
        Convention("momentum is the share of the new batch", reversed_momentum, accepted=False),
    )
