"""The layers and losses of CS231n, assignment 2, in plain NumPy: pairs of functions, forward and backward.

out, cache = f_forward(x, w, …)        dx, dw, … = f_backward(dout, cache)        loss, dx = f_loss(x, y)
"""

import numpy as np

# -- affine and rectifier ----------------------------------------------------------------------------------------------


def affine_forward(x, w, b):
    """out = x w + b, each sample of x flattened.

    x (N, d1, …, dk) with D = d1 ⋯ dk
    w (D, M)
    b (M,)
    out (N, M)
    """
    N, D = len(x), len(w)
    out = x.reshape(N, D).dot(w) + b
    return out, (x, w, b)


def affine_backward(dout, cache):
    """dx = dout wᵀ, dw = xᵀ dout, db = Σ dout over the samples.

    dout (N, M)
    dx (N, d1, …, dk)
    dw (D, M)
    db (M,)
    """
    x, w, b = cache
    N, D = len(x), len(w)
    dx = dout.dot(w.T).reshape(x.shape)
    dw = x.reshape(N, D).T.dot(dout)
    db = np.sum(dout, axis=0)
    return dx, dw, db


def relu_forward(x):
    """out = max(x, 0); x and out of any shape."""
    return np.maximum(0, x), x


def relu_backward(dout, cache):
    """dx = dout where x > 0, else 0.

    dout, dx like x
    """
    return np.where(cache > 0, dout, 0)


# -- losses, mean over the batch ---------------------------------------------------------------------------------------


def svm_loss(x, y):
    """Multi-class hinge loss: Σ over the wrong classes of max(0, x[c] − x[y] + 1), mean over the batch.

    x (N, C), scores
    y (N,), labels 0 … C − 1
    loss, a number
    dx (N, C)
    """
    N = len(x)
    rows = np.arange(N)
    margins = np.maximum(0, x - x[rows, y][:, None] + 1)
    margins[rows, y] = 0
    loss = margins.sum() / N
    dx = (margins > 0).astype(x.dtype)
    dx[rows, y] -= dx.sum(axis=1)
    dx /= N
    return loss, dx


def softmax_loss(x, y):
    """Softmax and cross-entropy: the mean of −log softmax(x)[y].

    x (N, C), scores
    y (N,), labels 0 … C − 1
    loss, a number
    dx (N, C)
    """
    N = len(x)
    shifted = x - np.max(x, axis=1, keepdims=True)
    exps = np.exp(shifted)
    sums = np.sum(exps, axis=1, keepdims=True)
    loss = np.sum(np.log(sums[:, 0]) - shifted[np.arange(N), y]) / N
    probs = exps / sums
    one_hot = np.zeros_like(x)
    one_hot[np.arange(N), y] = 1
    dx = (probs - one_hot) / N
    return loss, dx


# -- batch and layer normalisation -------------------------------------------------------------------------------------


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
    std = np.sqrt(var + eps)
    x_hat = (x - mean) / std
    return gamma * x_hat + beta, (mode, x_hat, std, gamma)


def batchnorm_backward(dout, cache):
    """Backwards through the graph, one node a line: out ← x̂ ← (x − mean, 1/std) ← std ← var ← x − mean ← x.

    dout, dx (N, D)
    dgamma, dbeta (D,)
    """
    mode, x_hat, std, gamma = cache
    N = len(dout)
    dgamma = np.sum(dout * x_hat, axis=0)
    dbeta = np.sum(dout, axis=0)
    dx_hat = dout * gamma
    dcentred = dx_hat / std
    if mode == "test":
        return dcentred, dgamma, dbeta
    centred = x_hat * std
    dinv_std = np.sum(dx_hat * centred, axis=0)
    dstd = -dinv_std / std**2
    dvar = dstd / (2 * std)
    dcentred = dcentred + dvar / N * 2 * centred
    dmean = -np.sum(dcentred, axis=0)
    dx = dcentred + dmean / N
    return dx, dgamma, dbeta


def batchnorm_backward_alt(dout, cache):
    """The same, simplified on paper: dx = gamma / std · (dout − mean of dout − x̂ · mean of dout · x̂).

    dout, dx (N, D)
    dgamma, dbeta (D,)
    """
    mode, x_hat, std, gamma = cache
    dgamma = (dout * x_hat).sum(axis=0)
    dbeta = dout.sum(axis=0)
    if mode == "test":
        return gamma / std * dout, dgamma, dbeta
    dx = gamma / std * (dout - (dbeta + x_hat * dgamma) / len(dout))
    return dx, dgamma, dbeta


def layernorm_forward(x, gamma, beta, ln_param):
    """out = gamma · x̂ + beta with x̂ = (x − mean) / √(var + eps), mean and variance of each sample.

    x, out (N, D)
    gamma, beta (D,)
    ln_param: eps
    """
    mean, var = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
    std = np.sqrt(var + ln_param.get("eps", 1e-5))
    x_hat = (x - mean) / std
    return gamma * x_hat + beta, (x_hat, std, gamma)


def layernorm_backward(dout, cache):
    """As for batch norm, but along the features: dx = (dx̂ − mean of dx̂ − x̂ · mean of dx̂ · x̂) / std.

    dout, dx (N, D)
    dgamma, dbeta (D,)
    """
    x_hat, std, gamma = cache
    dgamma = np.sum(dout * x_hat, axis=0)
    dbeta = np.sum(dout, axis=0)
    dx_hat = dout * gamma
    mean = np.mean(dx_hat, axis=1, keepdims=True)
    projection = np.mean(dx_hat * x_hat, axis=1, keepdims=True)
    dx = (dx_hat - mean - x_hat * projection) / std
    return dx, dgamma, dbeta


def spatial_batchnorm_forward(x, gamma, beta, bn_param):
    """Batch normalisation of each channel over samples and pixels.

    x, out (N, C, H, W)
    gamma, beta (C,)
    bn_param: as for batchnorm_forward, with running_mean and running_var (C,)
    """
    N, C, H, W = x.shape
    pixels = x.transpose(0, 2, 3, 1).reshape(N * H * W, C)
    out, cache = batchnorm_forward(pixels, gamma, beta, bn_param)
    return out.reshape(N, H, W, C).transpose(0, 3, 1, 2), cache


def spatial_batchnorm_backward(dout, cache):
    """Batch norm's gradient, every pixel a sample.

    dout, dx (N, C, H, W)
    dgamma, dbeta (C,)
    """
    N, C, H, W = dout.shape
    pixels = dout.transpose(0, 2, 3, 1).reshape(N * H * W, C)
    dpixels, dgamma, dbeta = batchnorm_backward(pixels, cache)
    dx = dpixels.reshape(N, H, W, C).transpose(0, 3, 1, 2)
    return dx, dgamma, dbeta


# -- dropout -----------------------------------------------------------------------------------------------------------


def dropout_forward(x, dropout_param):
    """Inverted dropout: out = x · m / p in training, m 1 with probability p and else 0; out = x in test mode.

    x, out of any shape
    dropout_param: mode "train" or "test", p (the probability to keep), seed (optional; the same seed, the same mask)
    """
    mode, p = dropout_param["mode"], dropout_param["p"]
    kept = None
    if mode == "train":
        kept = np.random.default_rng(dropout_param.get("seed")).random(x.shape) < p
        out = x * kept / p
    elif mode == "test":
        out = x.copy()
    else:
        raise ValueError(f'expected mode "train" or "test", got {mode!r}')
    return out, (dropout_param, kept)


def dropout_backward(dout, cache):
    """dx = dout · m / p in training, dout in test mode.

    dout, dx like x
    """
    dropout_param, kept = cache
    if dropout_param["mode"] == "train":
        dx = dout * kept / dropout_param["p"]
    else:
        dx = dout.copy()
    return dx


# -- convolution and pooling -------------------------------------------------------------------------------------------


def conv_forward_naive(x, w, b, conv_param):
    """Cross-correlation of the zero-padded x, and a bias.

    x (N, C, H, W)
    w (F, C, HH, WW)
    b (F,)
    conv_param: stride, and pad, the zeros on every side
    out (N, F, OH, OW) with OH = 1 + (H + 2 · pad − HH) // stride and OW likewise
    """
    stride, pad = conv_param["stride"], conv_param["pad"]
    N, C, H, W = x.shape
    F, _, HH, WW = w.shape
    OH, OW = 1 + (H + 2 * pad - HH) // stride, 1 + (W + 2 * pad - WW) // stride
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    out = np.zeros((N, F, OH, OW), x.dtype)
    for i in range(OH):
        for j in range(OW):
            window = padded[:, :, i * stride : i * stride + HH, j * stride : j * stride + WW]
            out[:, :, i, j] = np.tensordot(window, w, axes=([1, 2, 3], [1, 2, 3])) + b
    return out, (x, w, b, conv_param)


def conv_backward_naive(dout, cache):
    """Each output's gradient goes to the filter, times its window, and to the window, times the filter.

    dout (N, F, OH, OW)
    dx (N, C, H, W)
    dw (F, C, HH, WW)
    db (F,)
    """
    x, w, b, conv_param = cache
    stride, pad = conv_param["stride"], conv_param["pad"]
    N, C, H, W = x.shape
    F, _, HH, WW = w.shape
    N, F, OH, OW = dout.shape
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    dpadded = np.zeros_like(padded)
    dw = np.zeros_like(w)
    for i in range(OH):
        for j in range(OW):
            top, left = i * stride, j * stride
            window = padded[:, :, top : top + HH, left : left + WW]
            dw += np.tensordot(dout[:, :, i, j], window, axes=(0, 0))
            dpadded[:, :, top : top + HH, left : left + WW] += np.tensordot(dout[:, :, i, j], w, axes=(1, 0))
    dx = dpadded[:, :, pad : pad + H, pad : pad + W]
    db = dout.sum(axis=(0, 2, 3))
    return dx, dw, db


def max_pool_forward_naive(x, pool_param):
    """The largest of each window; windows that would stick out are left out.

    x (N, C, H, W)
    pool_param: pool_height, pool_width, stride
    out (N, C, OH, OW) with OH = 1 + (H − pool_height) // stride and OW likewise
    """
    PH, PW, stride = pool_param["pool_height"], pool_param["pool_width"], pool_param["stride"]
    N, C, H, W = x.shape
    OH, OW = 1 + (H - PH) // stride, 1 + (W - PW) // stride
    out = np.zeros((N, C, OH, OW), x.dtype)
    for i in range(OH):
        for j in range(OW):
            out[:, :, i, j] = x[:, :, i * stride : i * stride + PH, j * stride : j * stride + PW].max(axis=(2, 3))
    return out, (x, pool_param)


def max_pool_backward_naive(dout, cache):
    """Each output's gradient goes to the first maximum of its window; where windows overlap, they add up.

    dout (N, C, OH, OW)
    dx (N, C, H, W)
    """
    x, pool_param = cache
    PH, PW, stride = pool_param["pool_height"], pool_param["pool_width"], pool_param["stride"]
    N, C, OH, OW = dout.shape
    samples, channels = np.ogrid[:N, :C]
    dx = np.zeros_like(x)
    for i in range(OH):
        for j in range(OW):
            window = x[:, :, i * stride : i * stride + PH, j * stride : j * stride + PW]
            winner = window.reshape(N, C, PH * PW).argmax(axis=2)
            dx[samples, channels, i * stride + winner // PW, j * stride + winner % PW] += dout[:, :, i, j]
    return dx
