"""Sums over the parts of a batch, and what networks that branch need: sums of two values, columns put side by side."""

from .jit import kernel


@kernel
def sum_parts(parts, total):
    """total[i] = Σ_k parts[k, i], in the order of k: parts (parts, n), total (n,)"""
    total[:] = 0  # a copy of an array would bring Numba's check of shapes and its message: 4 s of compiling
    for k in range(parts.shape[0]):
        part = parts[k]
        for i in range(total.size):
            total[i] += part[i]


@kernel
def add(a, b, total):
    """total = a + b, all (n,)"""
    for i in range(total.size):
        total[i] = a[i] + b[i]


@kernel
def add_to(total, a):
    """total ← total + a, both (n,)"""
    for i in range(total.size):
        total[i] += a[i]


@kernel
def copy_columns(x, start, y, to, count):
    """y[n, to + i] = x[n, start + i] for i < count: x, y (N, …)"""
    for n in range(x.shape[0]):
        source, target = x[n, start : start + count], y[n, to : to + count]
        for i in range(count):
            target[i] = source[i]
