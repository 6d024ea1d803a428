"""Compiled kernels: free functions on arrays, one family a file, forward above backward.

Convolution has a folder, conv/, with one file for each way to compute it. Vector code stands in simd/ alone.

The contract of every kernel:

- C-contiguous float32 or float64 arrays in, results into arrays the caller owns (`y`, `dx`, `dw`, …), scalars last.
- An output array is overwritten, never added to, and may not overlap an input.
- No Python objects, no allocation in a loop, the GIL released: a kernel may run in any thread.
- The leading axis of a batch array is the batch. A slice of the batch is a slice of the arrays (`x[a:b]`, `y[a:b]`);
  a kernel that sums over the batch (`dw`, `db`, …) writes the sum over the slice it was given.
- NaN in, NaN out.
- No checks: shapes and values were checked by the layer or the loss that calls.

Nothing is compiled at import; `jit.kernel` compiles a function for a dtype when it is first called.
"""
