"""Sums over the parts of a batch."""

from .jit import kernel


@kernel
def sum_parts(parts, total):
    """total[i] = Σ_k parts[k, i], in the order of k: parts (parts, n), total (n,)"""
    total[:] = parts[0]
    for k in range(1, parts.shape[0]):
        part = parts[k]
        for i in range(total.size):
            total[i] += part[i]
