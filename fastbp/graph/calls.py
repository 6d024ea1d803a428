"""How an operation is carried out: arrays or nodes in, nodes out."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import numpy as np

from .nodes import OpNode, TensorNode, as_floats
from .op import Op

_recording = ContextVar("recording", default=True)


def carry_out(op: type[Op], inputs: tuple, options: dict) -> "TensorNode | tuple[TensorNode, ...]":
    """`Op.do_forward`: nodes in, a node out (or a tuple of nodes)."""
    inputs, context = as_nodes(op, inputs), {}
    try:
        with np.errstate(all="ignore"):
            result = op.forward(context, *(node.value for node in inputs), **options)
    except MemoryError:
        given = ", ".join(f"{input_name(op, k)} {node.shape}" for k, node in enumerate(inputs))
        raise MemoryError(f"{given}: the result needs more memory than there is") from None
    except Exception as error:
        if isinstance(error, TypeError) and error.__traceback__.tb_next is None:  # the call itself
            raise TypeError(f"{op.__name__}: inputs or options that forward does not take: {error}") from None
        shapes = ", ".join(str(node.shape) for node in inputs)
        error.add_note(f"in the graph's operation {op.__name__} of inputs {shapes}")
        raise
    make = OpNode(op, inputs, context).gives if _recording.get() else TensorNode
    return tuple(map(make, result)) if isinstance(result, tuple) else make(result)


def as_nodes(op: type[Op], inputs: tuple) -> tuple[TensorNode, ...]:
    """Every input of an operation as a node."""
    dtypes = [x.dtype for x in inputs if isinstance(x, TensorNode)]
    dtype = np.result_type(*dtypes) if dtypes else None
    named = ((x, partial(input_name, op, k)) for k, x in enumerate(inputs))
    return tuple(x if isinstance(x, TensorNode) else TensorNode(as_floats(x, dtype, name)) for x, name in named)


def input_name(op: type[Op], number: int) -> str:
    """What an error calls an input of an operation: its parameter of forward."""
    try:
        _, *parameters = inspect.signature(op.forward).parameters.values()
    except (TypeError, ValueError):  # not a function of Python's
        parameters = []
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    others = [p.name for p in parameters if p.kind is p.VAR_POSITIONAL] or ["input"]
    return f"{op.__name__}: input {named[number] if number < len(named) else f'{others[0]}[{number}]'}"


@contextmanager
def no_grad() -> Iterator[None]:
    """`with no_grad():` operations are carried out, but not entered in a graph: their results have no source."""
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


Op._carry_out = staticmethod(carry_out)
