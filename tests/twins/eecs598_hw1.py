"""The layers and losses of EECS 598, homework 1, in plain NumPy: pairs of functions, forward and backward.

out, cache = f_forward(x, w, …)        dx, dw, … = f_backward(dout, cache)        loss, dx = f_loss(x, y)
"""

import numpy as np

# -- fully connected ---------------------------------------------------------------------------------------------------


def fc_forward(x, w, b):
    """out = x w + b, each sample of x flattened.

    x (N, d1, …, dk) with D = d1 ⋯ dk
    w (D, M)
    b (M,)
    out (N, M)
    """
    out = x.reshape(len(x), len(w)) @ w + b
    return out, (x, w)


def fc_backward(dout, cache):
    """dx = dout wᵀ, dw = xᵀ dout, db = Σ dout over the samples.

    dout (N, M)
    dx (N, d1, …, dk)
    dw (D, M)
    db (M,)
    """
    x, w = cache
    flat = x.reshape(len(x), len(w))
    dx = (dout @ w.T).reshape(x.shape)
    dw = flat.T @ dout
    db = dout.sum(axis=0)
    return dx, dw, db


# -- rectifier ---------------------------------------------------------------------------------------------------------


def relu_forward(x):
    """out = max(x, 0); x and out of any shape."""
    return np.maximum(x, 0), x


def relu_backward(dout, cache):
    """dx = dout where x > 0, else 0.

    dout, dx like x
    """
    x = cache
    return dout * (x > 0)


# -- batch normalisation -----------------------------------------------------------------------------------------------


def batchnorm_forward(x, gamma, beta, bn_param):
    """out = gamma · x̂ + beta with x̂ = (x − mean) / √(var + eps), the variance biased.

    x, out (N, D)
    gamma, beta (D,)
    bn_param: mode "train" (the batch's statistics) or "test" (the running ones), eps, momentum,
              running_mean (D,) and running_var (D,), which training updates:
              running = momentum · running + (1 − momentum) · sample
    """
    mode, eps, momentum = bn_param["mode"], bn_param.get("eps", 1e-5), bn_param.get("momentum", 0.9)
    D = x.shape[1]
    running_mean = bn_param.get("running_mean", np.zeros(D, x.dtype))
    running_var = bn_param.get("running_var", np.zeros(D, x.dtype))
    if mode == "train":
        mean, var = x.mean(axis=0), x.var(axis=0)
        bn_param["running_mean"] = momentum * running_mean + (1 - momentum) * mean
        bn_param["running_var"] = momentum * running_var + (1 - momentum) * var
    elif mode == "test":
        mean, var = running_mean, running_var
    else:
        raise ValueError(f'expected mode "train" or "test", got {mode!r}')
    centred = x - mean
    inv_std = 1 / np.sqrt(var + eps)
    out = gamma * centred * inv_std + beta
    return out, (mode, centred, inv_std, gamma)


def batchnorm_backward(dout, cache):
    """The gradient through x̂, the variance and the mean (in test mode through x̂ only), one after the other.

    dout, dx (N, D)
    dgamma, dbeta (D,)
    """
    mode, centred, inv_std, gamma = cache
    dgamma = (dout * centred * inv_std).sum(axis=0)
    dbeta = dout.sum(axis=0)
    dnormal = dout * gamma
    dx = dnormal * inv_std
    if mode == "train":
        N = len(dout)
        dvar = (dnormal * centred).sum(axis=0) * -0.5 * inv_std**3
        dmean = -(dnormal * inv_std).sum(axis=0)
        # the variance depends on the mean too, but Σ (x − mean) = 0: that term is nothing
        dx = dx + dvar * 2 * centred / N + dmean / N
    return dx, dgamma, dbeta


# -- dropout -----------------------------------------------------------------------------------------------------------


def dropout_forward(x, dropout_param):
    """Inverted dropout: out = x · m / p in training, m 1 with probability p and else 0; out = x in test mode.

    x, out of any shape
    dropout_param: mode "train" or "test", p (the probability to keep), seed (optional; the same seed, the same mask)
    """
    mode, p = dropout_param["mode"], dropout_param["p"]
    if mode == "train":
        mask = (np.random.default_rng(dropout_param.get("seed")).random(x.shape) < p) / p
        return x * mask, mask
    if mode == "test":
        return x.copy(), None
    raise ValueError(f'expected mode "train" or "test", got {mode!r}')


def dropout_backward(dout, cache):
    """dx = dout · m / p in training, dout in test mode.

    dout, dx like x
    """
    mask = cache
    return dout.copy() if mask is None else dout * mask


# -- convolution -------------------------------------------------------------------------------------------------------


def conv_forward(x, w):
    """Valid cross-correlation with stride 1: the filters are not flipped.

    x (N, C, H, W)
    w (F, C, HH, WW)
    out (N, F, H − HH + 1, W − WW + 1):  out[n, f, i, j] = Σ over c, p, q of x[n, c, i + p, j + q] · w[f, c, p, q]
    """
    N, C, H, W = x.shape
    F, _, HH, WW = w.shape
    OH, OW = H - HH + 1, W - WW + 1
    out = np.zeros((N, F, OH, OW), x.dtype)
    for p in range(HH):
        for q in range(WW):
            out += np.einsum("ncij,fc->nfij", x[:, :, p : p + OH, q : q + OW], w[:, :, p, q])
    return out, (x, w)


def conv_backward(dout, cache):
    """Each weight's gradient from the pixels it met; each pixel's from the weights it met.

    dout (N, F, OH, OW)
    dx (N, C, H, W)
    dw (F, C, HH, WW)
    """
    x, w = cache
    F, C, HH, WW = w.shape
    N, F, OH, OW = dout.shape
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    for p in range(HH):
        for q in range(WW):
            dx[:, :, p : p + OH, q : q + OW] += np.einsum("nfij,fc->ncij", dout, w[:, :, p, q])
            dw[:, :, p, q] = np.einsum("nfij,ncij->fc", dout, x[:, :, p : p + OH, q : q + OW])
    return dx, dw


def conv_forward_flipped(x, w):
    """Valid convolution in the mathematical sense: the cross-correlation with the filters turned by 180°.

    x (N, C, H, W)
    w (F, C, HH, WW)
    out (N, F, H − HH + 1, W − WW + 1)
    """
    return conv_forward(x, w[:, :, ::-1, ::-1])


def conv_backward_flipped(dout, cache):
    """The gradient of the turned filters, turned back.

    dout (N, F, OH, OW)
    dx (N, C, H, W)
    dw (F, C, HH, WW)
    """
    dx, dw = conv_backward(dout, cache)
    return dx, dw[:, :, ::-1, ::-1]


# -- max pooling -------------------------------------------------------------------------------------------------------


def max_pool_forward(x, pool_param):
    """The largest of each window; windows that would stick out are left out.

    x (N, C, H, W)
    pool_param: pool_height, pool_width, stride
    out (N, C, OH, OW) with OH = 1 + (H − pool_height) // stride and OW likewise
    """
    PH, PW, stride = pool_param["pool_height"], pool_param["pool_width"], pool_param["stride"]
    N, C, H, W = x.shape
    OH, OW = 1 + (H - PH) // stride, 1 + (W - PW) // stride
    out = np.full((N, C, OH, OW), -np.inf, x.dtype)
    winner = np.zeros((N, C, OH, OW), int)  # the first maximum of the window, counted row by row
    for p in range(PH):
        for q in range(PW):
            candidate = x[:, :, p : p + stride * OH : stride, q : q + stride * OW : stride]
            larger = candidate > out
            out[larger] = candidate[larger]
            winner[larger] = p * PW + q
    return out, (x, winner, pool_param)


def max_pool_backward(dout, cache):
    """Each output's gradient goes to the first maximum of its window; where windows overlap, they add up.

    dout (N, C, OH, OW)
    dx (N, C, H, W)
    """
    x, winner, pool_param = cache
    PH, PW, stride = pool_param["pool_height"], pool_param["pool_width"], pool_param["stride"]
    N, C, OH, OW = dout.shape
    dx = np.zeros_like(x)
    for p in range(PH):
        for q in range(PW):
            bottom, right = p + (OH - 1) * stride + 1, q + (OW - 1) * stride + 1
            dx[:, :, p:bottom:stride, q:right:stride] += dout * (winner == p * PW + q)
    return dx


# -- losses, mean over the batch ---------------------------------------------------------------------------------------


def svm_loss(x, y):
    """Binary hinge loss: the mean of max(0, 1 − t x), t = +1 for label 1 and −1 for label 0 or −1.

    x (N,) or (N, 1), scores
    y (N,), labels all 0/1 or all −1/+1
    loss, a number
    dx like x
    """
    t = np.where(y > 0, 1, -1).reshape(x.shape)
    margin = 1 - t * x
    loss = np.maximum(margin, 0).mean()
    dx = -t * (margin > 0) / len(x)
    return loss, dx


def logistic_loss(x, y):
    """Binary logistic loss: the mean of log(1 + exp(−t x)), t = +1 for label 1 and −1 for label 0 or −1.

    x (N,) or (N, 1), scores
    y (N,), labels all 0/1 or all −1/+1
    loss, a number
    dx like x
    """
    t = np.where(y > 0, 1, -1).reshape(x.shape)
    loss = np.logaddexp(0, -t * x).mean()
    dx = -t * np.exp(-np.logaddexp(0, t * x)) / len(x)  # exp(−log(1 + exp(t x))) = σ(−t x), and nothing overflows
    return loss, dx


def softmax_loss(x, y):
    """Softmax and cross-entropy: the mean of −log softmax(x)[y].

    x (N, C), scores
    y (N,), labels 0 … C − 1
    loss, a number
    dx (N, C)
    """
    rows = np.arange(len(x))
    shifted = x - x.max(axis=1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -log_probs[rows, y].mean()
    dx = np.exp(log_probs)
    dx[rows, y] -= 1
    dx /= len(x)
    return loss, dx
