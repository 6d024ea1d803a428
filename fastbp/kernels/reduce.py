"""Sums over the parts of a batch."""

from .jit import kernel


@kernel
def sum_parts(parts, total):
    """total[i] = Σ_k parts[k, i], in the order of k: parts (parts, n), total (n,)"""
    total[:] = 0  # a copy of an array would bring Numba's check of shapes and its message: 4 s of compiling
    for k in range(parts.shape[0]):
        part = parts[k]
        for i in range(total.size):
            total[i] += part[i]
