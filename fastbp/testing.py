"""For the test suite of any project: gradients asserted by finite differences."""

import inspect

from .gradcheck import GradientReport, check_gradients


def assert_gradients(thing, *inputs, **options) -> GradientReport:
    """Fail, with the report as the message, unless every gradient of `thing` at the inputs is right.

    Returns the report otherwise. `thing`, inputs and options are those of `fastbp.check_gradients`: a layer, a network,
    a loss, a pair of NumPy functions `(f_forward, f_backward)` or a loss function `f_loss(x, y) -> (loss, dx)`.
    GradientError, an AssertionError, has the table, the likely causes and the smallest failing case.

    >>> import numpy as np
    >>> def scale_forward(x, factor):
    ...     return x * factor, (x, factor)
    >>> def scale_backward(dout, cache):
    ...     x, factor = cache
    ...     return dout * factor, dout * x
    >>> x, factor = np.random.default_rng(0).normal(size=(2, 3, 4))
    >>> assert_gradients((scale_forward, scale_backward), x, factor).counts
    {'ok': 24}
    """
    known = list(inspect.signature(check_gradients).parameters)[2:]
    if unknown := [name for name in options if name not in known]:
        raise TypeError(f"assert_gradients: unknown options {', '.join(unknown)}; known are {', '.join(known)}")
    report = check_gradients(thing, *inputs, **options)
    report.raise_if_failed()
    return report
