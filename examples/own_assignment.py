"""An assignment of your own: an instructor's file for `fastbp grade SUBMISSIONS --assignment
examples/own_assignment.py`.

It defines one name, `assignment`. Each item says which functions a submission must have, what is right, how inputs are
drawn, and what it is worth. This one asks for a leaky rectifier and for the mean squared error:

    leaky_forward(x, slope) -> out, cache        leaky_backward(dout, cache) -> dx
    mse_loss(x, target) -> loss, dx

Try it on the sample submission, which has one mistake:

    fastbp grade examples/submission.py --assignment examples/own_assignment.py
"""

import numpy as np

from fastbp import LeakyReLU, MeanSquaredError
from fastbp.grading import Assignment, Case, Convention, Item

# What is right. A reference is given the submission's output (only functions with chance in them need it) and the
# arguments by name. It gives the output that is right, and a function from dout to the gradients. Layers of fastbp make
# good references, since their gradients are tested; plain NumPy does as well.


def leaky(out, x, slope):
    layer = LeakyReLU(slope)
    return layer.forward(x), lambda dout: (layer.backward(dout),)


def mean_squared(out, x, target):
    loss = MeanSquaredError()
    return loss.forward(x, target), lambda: (loss.backward(),)


def half_squared(out, x, target):
    """The other definition that is about: half the mean, whose gradient has no 2."""
    value, gradients = mean_squared(out, x, target)
    return value / 2, lambda: tuple(g / 2 for g in gradients())


# How inputs are drawn: arguments by name, from a generator that `--seed` decides. Small ones where gradients are
# checked: a call is made for every element.


def some(rng, N=4):
    return {"x": rng.normal(size=(N, 5)), "slope": float(rng.choice([0.01, 0.3]))}


def pairs(rng, N=4):
    return {"x": rng.normal(size=(N, 3)), "target": rng.normal(size=(N, 3))}


assignment = Assignment(
    "own",
    title="An assignment of one's own",
    items=[
        Item(
            "leaky",
            "leaky_forward(x, slope) -> out, cache",
            backward="leaky_backward(dout, cache) -> dx",
            gradients=("x",),  # the arguments that have a gradient, in the order in which backward returns them
            conventions=[Convention("slope on the negative side", leaky)],
            cases=[
                Case("random input", some, gradients=True),  # forward, backward, and forward against backward
                Case("a batch of one", lambda rng: some(rng, N=1)),
                Case("zeros", lambda rng: {"x": np.zeros((2, 3)), "slope": 0.1}),
                Case("an array that is not contiguous", some, strided=True),
            ],
            points=6,
            weights=(1, 2, 3),  # of the points: the functions are there, forward, backward
        ),
        Item(
            "mse",
            "mse_loss(x, target) -> loss, dx",  # a loss gives its gradient itself: no backward
            gradients=("x",),
            conventions=[  # the first is what is asked for; others are recognised and named, and right if `accepted`
                Convention("mean over all elements", mean_squared),
                Convention("half the mean over all elements", half_squared, accepted=False),
            ],
            cases=[
                Case("random input", pairs, gradients=True),
                Case("a batch of one", lambda rng: pairs(rng, N=1), gradients=True),
            ],
            points=4,
            visibility="after_due_date",  # on Gradescope; also visible, hidden, after_published
            shows=False,  # feedback without the right values
            hint="The gradient is that of exactly the value you return.",
        ),
    ],
)
