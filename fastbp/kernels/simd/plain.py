"""What the tiles of simd/ compute, in NumPy: the definition that tests hold them to, and what runs without the JIT."""

import numpy as np

from .toom_cook import GRADIENTS, INPUTS, WEIGHTS


def lanes(x):
    """Any number does; this one leaves tails."""
    return 4


def lanes_of(dtype):
    """The same, outside of kernels"""
    return 4


def outer_rows(x):
    """As for 16 vector registers; and so the others"""
    return 4


def dot_rows(x):
    return 3


def dot_columns(x):
    return 4


def sparse_lanes(x):
    return lanes(x)


def sparse_rows(x):
    return 12


def pixel_filters(x):
    return 3


def outer(a, a0, am, ak, b, b0, bk, K, c, c0, cm, rows, columns, add):
    """c[c0 + m·cm + n] = Σ_{k<K} a[a0 + m·am + k·ak] · b[b0 + k·bk + n], + c with `add`; ak and bk may be tables"""
    along, down = (np.arange(K) * x if np.ndim(x) == 0 else x[:K] for x in (ak, bk))
    across = b[b0 + down[:, None] + np.arange(columns)]
    for m in range(rows):
        row = c[c0 + m * cm : c0 + m * cm + columns]
        value = a[a0 + m * am + along] @ across
        row[:] = row + value if add else value


def dot(a, a0, am, b, b0, bn, K, c, c0, cm, rows, columns, add):
    """c[c0 + m·cm + n] = Σ_{k<K} a[a0 + m·am + k] · b[b0 + n·bn + k], + c with `add`; with a table, b[bn[b0 + n] +
    k]"""
    for m in range(rows):
        for n in range(columns):
            start, where = b0 + n * bn if np.ndim(bn) == 0 else bn[b0 + n], c0 + m * cm + n
            value = a[a0 + m * am : a0 + m * am + K] @ b[start : start + K]
            c[where] = c[where] + value if add else value


def pack(b, b0, bk, K, panel, p0, columns):
    """panel[p0 + k·3L + n] = b[b0 + k·bk + n], 0 in the rest of the 3L columns"""
    wide = 3 * lanes(b)
    panel[p0 : p0 + K * wide] = 0
    for k in range(K):
        panel[p0 + k * wide : p0 + k * wide + columns] = b[b0 + k * bk : b0 + k * bk + columns]


def sum_rows(a, a0, ak, rows, b, b0, bk, c, c0, columns):
    """c[c0 + n] = Σ_{k<rows} a[a0 + k·ak] · b[b0 + k·bk + n]"""
    outer(a, a0, 0, ak, b, b0, bk, rows, c, c0, 0, 1, columns, False)


def outer_descend(a, a0, am, ak, b, b0, bk, K, c, velocity, c0, cm, rows, columns, numbers):
    """SGD's update of c and velocity with `outer`'s sums for gradient, numbers = (−lr, momentum, weight_decay,
    nesterov)"""
    down, momentum, weight_decay, nesterov = numbers
    sums = np.empty(rows * columns, c.dtype)
    outer(a, a0, am, ak, b, b0, bk, K, sums, 0, columns, rows, columns, False)
    for m in range(rows):
        value, v = (x[c0 + m * cm : c0 + m * cm + columns] for x in (c, velocity))
        g = sums[m * columns : (m + 1) * columns] + weight_decay * value
        v[:] = momentum * v + g
        value += down * (g + momentum * v if nesterov > 0 else v)


def sum_rows_descend(a, a0, ak, rows, b, b0, bk, c, velocity, c0, columns, numbers):
    """The same for one row of c"""
    outer_descend(a, a0, 0, ak, b, b0, bk, rows, c, velocity, c0, 0, 1, columns, numbers)


def copy_row(x, start, y, to, columns, add):
    """y[to + j] = x[start + j] + add, both flat"""
    y.reshape(-1)[to : to + columns] = x.reshape(-1)[start : start + columns] + add


def copy_row_and_zeros(x, start, y, to, columns):
    """y[to + j] = x[start + j], both flat, then 0 up to a whole number of vectors"""
    y[to : to - (-columns // lanes(x)) * lanes(x)] = 0
    y[to : to + columns] = x[start : start + columns]


def copy_even(x, start, y, to, columns):
    """y[to + j] = x[start + 2j], both flat"""
    y.reshape(-1)[to : to + columns] = x.reshape(-1)[start : start + 2 * columns : 2]


def split_row(x, start, y, evens, odds, columns, fill):
    """y[evens + j] = x[start + 2j], y[odds + j] = x[start + 2j + 1] for `columns` numbers, `fill` up to a whole number
    of vectors"""
    row = np.full(-(-columns // (2 * lanes(x))) * 2 * lanes(x), fill, x.dtype)
    row[:columns] = x[start : start + columns]
    y[evens : evens + row.size // 2], y[odds : odds + row.size // 2] = row[::2], row[1::2]


def join_row(x, evens, odds, y, to, columns):
    """y[to + 2j] = x[evens + j], y[to + 2j + 1] = x[odds + j] for `columns` numbers"""
    y[to : to + columns : 2], y[to + 1 : to + columns : 2] = x[evens:][: -(-columns // 2)], x[odds:][: columns // 2]


def sum_taps(x, at, starts, begin, taps, factor, y, out, columns):
    """y[out + j] = factor · Σ x[at + starts[t] + j] over begin ≤ t < begin + taps"""
    places = at + starts[begin : begin + taps, None] + np.arange(columns)
    y[out : out + columns] = factor * x[places].sum(axis=0)


def sum_pairs(x, top, low, factor, y, out, columns):
    """y[out + j] = factor · the sum of the 2×2 pixels at top + 2j and low + 2j"""
    rows = x[top : top + 2 * columns] + x[low : low + 2 * columns]
    y[out : out + columns] = factor * (rows[::2] + rows[1::2])


def spread_pairs(g, start, factor, x, top, low, columns):
    """The 2×2 pixels of x at top + 2j and low + 2j = factor · g[start + j]"""
    for row in (top, low):
        x[row : row + 2 * columns] = np.repeat(factor * g[start : start + columns], 2)


def rows_at_once(x):
    return lanes(x)


def to_columns(source, s0, ss, target, t0, ts, rows, columns):
    """target[t0 + j·ts + i] = source[s0 + i·ss + j]"""
    for i in range(rows):
        for j in range(columns):
            target[t0 + j * ts + i] = source[s0 + i * ss + j]


def from_columns(source, s0, ss, target, t0, ts, rows, columns):
    """target[t0 + i·ts + j] = source[s0 + j·ss + i]"""
    to_columns(source, s0, ss, target, t0, ts, columns, rows)


def power_of_two(n):
    """2ⁿ, of n's type"""
    return np.ldexp(type(n)(1), int(n)) if n == n else n


def pool_pairs(x, top, low, y, argmax, out, first, width, columns):
    """y[out + j] = the first maximum of the 2×2 pixels at top + 2j and low + 2j, argmax[out + j] its number from
    `first`"""
    for j in range(columns):
        best, number = x[top + 2 * j], 0
        for step, at in ((1, top + 2 * j + 1), (width, low + 2 * j), (width + 1, low + 2 * j + 1)):
            if x[at] > best or x[at] != x[at]:
                best, number = x[at], step
        y[out + j] = best
        argmax[out + j] = first + 2 * j + number


def pool_row(x, at, starts, steps, begin, taps, y, argmax, out, corner, least, stride, columns):
    """y[out + j] = the first maximum of x[at + starts[t] + j], argmax[out + j] = corner + j·stride + steps[t]; the
    first tap's number, but at least `least`, where all are −∞"""
    for j in range(columns):
        best, number = -np.inf, max(corner + j * stride + steps[begin], least)
        for t in range(begin, begin + taps):
            value = x[at + starts[t] + j]
            if value > best or value != value:
                best, number = value, corner + j * stride + steps[t]
        y[out + j], argmax[out + j] = best, number


def pool_normalised(x, top, low, affine, y, chosen, argmax, out, first, width, columns):
    """`pool_pairs` of (x − middle) · scale + shift, then max(least, y); chosen[out + j] is the x of the maximum"""
    middle, scale, shift, least = affine
    for j in range(columns):
        window = [x[start : start + 2] for start in (top + 2 * j, low + 2 * j)]
        pixels = np.concatenate(window)
        pool_pairs((pixels - middle) * scale + shift, 0, 2, y, argmax, out + j, 0, 2, 1)
        chosen[out + j] = pixels[argmax[out + j]]
        argmax[out + j] = first + 2 * j + argmax[out + j] // 2 * width + argmax[out + j] % 2
        y[out + j] = least if y[out + j] <= least else y[out + j]


def add_weighted_rows(numbers, places, first, count, x, offsets, r0, c, c0, to, rows):
    """c[c0 + to[r] + j] += Σ_s numbers[s] · x[places[s] + offsets[r] + j]"""
    L = lanes(c)
    for r in range(r0, r0 + rows):
        total = np.zeros(L, c.dtype)
        for s in range(first, first + count):
            start = places[s] + offsets[r]
            total += numbers[s] * x[start : start + L]
        c[c0 + to[r] : c0 + to[r] + L] += total


def to_points(choices):
    """points[p0 + q·step + j] = (X d Xᵀ)_q with d_k = pixels[at + table[t0 + k] + j], for j < count·L, X =
    choices[tile]"""

    def transform(tile, pixels, at, table, t0, points, p0, step, count):
        (n, side), across = choices[tile].shape, np.arange(count * lanes(pixels))
        d = pixels[at + table[t0 : t0 + side * side, None] + across].reshape(side, side, -1)
        results = np.einsum("ip,jq,pqc->ijc", choices[tile], choices[tile], d)
        points[p0 + np.arange(n * n)[:, None] * step + across] = results.reshape(n * n, -1)

    return transform


def transform_back(matrix, points, p0, step, count):
    """(Xᵀ d X)_k with d_q = points[p0 + q·step + j], for j < count·L: (k, j)"""
    (n, side), across = matrix.shape, np.arange(count * lanes(points))
    d = points[p0 + np.arange(n * n)[:, None] * step + across].reshape(n, n, -1)
    return np.einsum("pi,qj,pqc->ijc", matrix, matrix, d).reshape(side * side, -1)


def points_to_image(tile, points, p0, step, pixels, at, table, t0, count):
    """pixels[at + table[t0 + k] + j] += (B d Bᵀ)_k"""
    results = transform_back(INPUTS[tile], points, p0, step, count)
    pixels[at + table[t0 : t0 + len(results), None] + np.arange(results.shape[1])] += results


def stored_from_points(choices):
    """pixels[at + table[t0 + k] + j] = bias[j] + (Xᵀ d X)_k"""

    def transform(tile, points, p0, step, pixels, at, table, t0, count, bias):
        results = transform_back(choices[tile], points, p0, step, count)
        across = np.arange(results.shape[1])
        pixels[at + table[t0 : t0 + len(results), None] + across] = results + bias[across]

    return transform


image_to_points, map_to_points, filter_to_points = to_points(INPUTS), to_points(GRADIENTS), to_points(WEIGHTS)
points_to_map, points_to_filter = stored_from_points(GRADIENTS), stored_from_points(WEIGHTS)


def transpose(source, s0, ss, target, t0, ts, rows, columns):
    """target[t0 + j·ts + i] = source[s0 + i·ss + j] for i < rows and j < columns"""
    i, j = np.arange(rows), np.arange(columns)
    target[t0 + j[:, None] * ts + i] = source[s0 + i * ss + j[:, None]]


def panel_product(a, a0, am, ak, b, b0, bk, bp, K, c, c0, cm, cp, rows, panels, add):
    """c[c0 + m·cm + p·cp + n] = Σ_{k<K} a[a0 + m·am + k·ak] · b[b0 + p·bp + k·bk + n], + c with `add`, p < panels, n <
    16"""
    for p in range(panels):
        outer(a, a0, am, ak, b, b0 + p * bp, bk, K, c, c0 + p * cp, cm, rows, 16, add)


def windows_by_filters(a, a0, width, ak, b, b0, bk, bp, K, bias, y, argmax, out, step, first, windows, panels):
    """For f = 16p + l: the first maximum of s[r, q] = Σ_k a[a0 + r·width + 2j + q + ak[k]] · b[b0 + p·bp + k·bk + l],
    in y, with bias, and in argmax"""
    for j in range(windows):
        for p in range(panels):
            columns = b[b0 + p * bp + np.arange(K)[:, None] * bk + np.arange(16)]
            pixels = [a[a0 + r * width + 2 * j + q + ak[:K]] @ columns for r in range(2) for q in range(2)]
            for f in range(16):
                choose(pixels, f, bias[16 * p + f], y, argmax, out + j * step + 16 * p + f, first + 2 * j, width)


def windows_by_pixels(w, w0, wf, x, low, at, K, bias, y, argmax, out, step, first, width, windows, filters):
    """The same of s[r, q] = Σ_k w[w0 + f·wf + k] · x[at[q·K + k] + r·low + j], for f < filters"""
    for f in range(filters):
        row = w[w0 + f * wf : w0 + f * wf + K]
        for j in range(windows):
            pixels = [row @ x[at[q * K : q * K + K] + r * low + j][:, None] for r in range(2) for q in range(2)]
            choose(pixels, 0, bias[f], y, argmax, out + f * step + j, first + 2 * j, width)


def choose(pixels, f, bias, y, argmax, where, first, width):
    """Of a window's four pixels, the first maximum, with bias, and its number"""
    best, number = pixels[0][f], 0
    for pixel, step in zip(pixels[1:], (1, width, width + 1), strict=True):
        if pixel[f] > best or pixel[f] != pixel[f]:
            best, number = pixel[f], step
    y[where] = best + bias
    argmax[where] = first + number


def multiply_adds(x, count):
    """x[i] ← x[0]·x[i] + x[1], `count` times, for i < 12·L, with x[0] and x[1] as they were"""
    first, second = x[:2].copy()
    for _ in range(count):
        x[: 12 * lanes(x)] = first * x[: 12 * lanes(x)] + second


def pixel_rows(x):
    return 4


def pixels_in_lanes(w, w0, x, taps, K, bias, places, count, y, y0, ym, rows):
    """y[y0 + m·ym + to + l] = bias[w0 + m] + Σ_{k<K} w[w0 + m + taps[2k]] · x[from + l + taps[2k + 1]]"""
    (in_w, in_x), lanes_, down = taps[: 2 * K].reshape(-1, 2).T, np.arange(lanes(x)), np.arange(rows)
    numbers = w[w0 + down[:, None] + in_w]
    for start, to in places[: 2 * count].reshape(-1, 2):
        value = bias[w0 : w0 + rows, None] + numbers @ x[start + in_x[:, None] + lanes_]
        y[y0 + down[:, None] * ym + to + lanes_] = value


def channels_in_lanes(x, places, count, taps, K, w, first, along, y, vectors):
    """y[to + l] = first[along·to + l] + Σ_{k<K} x[from + taps[2k + 1]] · w[taps[2k] + l]"""
    (in_w, in_x), across = taps[: 2 * K].reshape(-1, 2).T, np.arange(vectors * lanes(x))
    filters = w[in_w[:, None] + across]
    for start, to in places[: 2 * count].reshape(-1, 2):
        y[to : to + across.size] = first[along * to + across] + x[start + in_x] @ filters
