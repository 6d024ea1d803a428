"""The engine: how a network's layers become one list of compiled calls that several threads work through.

Layers say what is computed; kernels, with which instructions; the engine, how much of it at once, and in which memory.

    graph.py        what       containers opened into a row of steps, which wires join
    neighbours.py              layers that are one in evaluation, and biases that a mean takes away
    ops.py          by what    for each step, or several in a row, the first op in a table that suits
    partition.py    how much   ranges of samples, channels, features or rows, by the sizes of a Machine
    sections.py     in order   memory for wires, calls bound to it: what may be made at once, and what comes after
    step.py                    loss and update among those calls
    program.py, team.py, threads.py    the calls as one program, and the threads that share it
    gradients.py, compiling.py         gradients that are left open; kernels compiled before the first pass

Take `Residual(Conv2d(8, 8, 3, padding=1))` and `ReLU()`. Opening them gives the steps Conv2d: wire 1 → wire 2, Plus:
wires 2 and 1 → wire 3, ReLU: wire 3 → wire 4. Wire 1 has two readers, so its gradient is the sum of two. Nothing else
in the engine knows that networks branch.

An op is kernels bound to arrays. Here is that of tanh:

    @computes(Tanh)
    class TanhOp(Op):
        def forward(self, samples):
            yield partial(tanh_forward, flat(self.x[samples]), flat(self.y[samples]))

        def backward(self, samples):
            yield partial(tanh_backward, flat(self.dout[samples]), flat(self.y[samples]), flat(self.dx[samples]))

The parameter `samples` is a promise: given some of the batch, the method does its work for these alone. Batch
normalisation takes `channels`; a linear layer takes `samples` and `features`, and for the gradient of its weights
`rows`. A method without such a parameter is made as a whole. That is all that the engine knows of a layer, and all that
kernels for several layers need: `@computes(Conv2d, ReLU, MaxPool2d)` enters one for three in a row, and its `suits`
says for which inputs it is the better; `@computes(Linear, Tanh, run=True)` enters one for any number of these in a row.
A layer that is not in the table, one of yours, is called as a whole by its own forward and backward.

The partition says for each method of each op along which parameter it is cut, and where. It looks at the ops and at a
Machine's sizes, never at the number of threads: how a sum is cut is part of the result, and results are the same on any
number of threads. Neighbouring ops that are cut by samples become one section: a part of the batch goes through all of
them on one core. Where samples meet (batch normalisation in training, features of a large layer), a section ends and
all threads wait for the last.

Gradients of weights are sums over the batch. Small ones are summed in parts, each in a share of its own, and the shares
are added. Large ones are cut by rows at the end instead, where the optimiser's update follows each block while it is in
the cache, or is made by the same kernel.

To see it: `print(network.engine((3, 32, 32)))`. To change it: `network.machine = Machine(part_work=1)`.
"""

from .engine import Engine
from .graph import Wire
from .machine import Machine
from .ops import Op, Setting, computes

__all__ = ["Engine", "Machine", "Op", "Setting", "Wire", "computes"]
