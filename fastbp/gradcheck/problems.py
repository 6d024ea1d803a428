"""What can be checked: y = f(x, w, …) with the gradients that somebody's backward pass gives.

A `Problem` hides where the function lives: in a layer, a network, a loss, a pair of plain functions, or another
process.
"""

import contextlib
import copy
import inspect
import math
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np

from ..arguments import array, shown
from ..engine.ops import Op as EngineOp
from ..graph.nodes import Op
from ..layers.base import Layer
from ..layers.blocks import Container
from ..losses import Loss
from ..network import Sequential


class Problem:
    """y = f(tensors), and its backward pass.

    - `subject` one line for the report
    - `tensors` the float64 arrays with a gradient, by name, in the order of the gradients. The checker moves their
      elements in place: `forward` must use their present values.
    - `others` what else f takes (labels, options), for the diagnosis
    - `frozen` names of parameters that have no gradient
    - `scalar` f is a loss: y is a number, and backward takes no cotangent

    `forward()` gives y; `backward(dout)` the gradients {name: array} of the last forward pass. Both leave all as it
    was.
    """

    subject = ""
    scalar = False
    frozen: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.tensors: dict[str, np.ndarray] = {}
        self.others: dict[str, object] = {}

    def forward(self) -> np.ndarray:
        raise NotImplementedError

    def backward(self, dout: np.ndarray) -> dict[str, np.ndarray]:
        raise NotImplementedError

    def imaginary(self, name: str, index: int, h: float) -> np.ndarray | None:
        """Im f / h with ih added to one element of a tensor; None if f does not take complex numbers."""
        return None

    def held(self) -> dict[str, list[np.ndarray]]:
        """The arrays that a pass must not write to, by what they are: inputs, the cache of the last forward pass."""
        return {"the inputs": list(self.tensors.values())}

    def results(self) -> list[np.ndarray]:
        """What the last forward pass returned, as it was returned, for a look at shared memory."""
        return []


def problem_of(thing, inputs: tuple, loss: Loss | None = None, training: bool = True) -> Problem:
    """The problem of a layer, network, loss, operation of the graph, pair of functions or loss function at the inputs;
    TypeError if it is none of these."""
    if not inputs:
        raise TypeError("check_gradients: give the inputs to check at, e.g. check_gradients(layer, x)")
    if isinstance(thing, Loss):
        if len(inputs) != 2:
            raise TypeError(
                "check_gradients: inputs: a loss takes scores and targets, check_gradients(loss, scores, targets)"
            )
        return LossProblem(thing, *inputs)
    if isinstance(thing, Layer):
        if len(inputs) != (1 if loss is None else 2):
            raise TypeError("check_gradients: inputs: a layer or network takes x; with loss=… it takes x and targets")
        return LayerProblem(thing, *inputs, loss=loss, training=training)
    if loss is not None:
        raise TypeError("check_gradients: loss=… goes with a layer or a network")
    if isinstance(thing, type) and issubclass(thing, Op):
        options = inputs[-1:] if isinstance(inputs[-1], dict) else ()
        _require_fit(thing.__name__, partial(thing.forward, {}), inputs[: len(inputs) - len(options)], *options)
        return OpProblem(thing, inputs)
    if (
        isinstance(thing, (tuple, list))
        and len(thing) == 2
        and all(callable(f) and not isinstance(f, type) for f in thing)
    ):
        _require_fit("forward", thing[0], inputs)
        return PairProblem(*thing, inputs)
    if callable(thing) and not isinstance(thing, type):
        _require_fit("the function", thing, inputs)
        return LossFunctionProblem(thing, inputs)
    raise TypeError(
        "check_gradients: thing: expected a layer, a network, a loss or a pair of functions, one function that gives "
        f"(loss, dx), or an Op, got {shown(thing)}"
    )


def _require_fit(name: str, function: Callable, inputs: tuple, options: dict | None = None) -> None:
    """TypeError if the function can't be called with so many inputs, and these options."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a built-in
        return
    try:
        signature.bind(*inputs, **(options or {}))
    except TypeError as error:
        raise TypeError(f"check_gradients: thing and inputs don't fit: {name} does not take these: {error}") from None


def as_float64(name: str, x) -> np.ndarray:
    """A copy of an array of numbers, of float64 where it is of a floating kind."""
    x = array(f"check_gradients: input {name}", x)
    if x.dtype.kind == "c":
        raise TypeError(
            f"check_gradients: inputs are real; complex ones have no gradient in this sense: input {name} is {x.dtype}"
        )
    with np.errstate(over="ignore"):
        return np.array(x, np.float64 if x.dtype.kind == "f" else x.dtype)


class LossProblem(Problem):
    """A fastbp loss at scores and targets."""

    scalar = True

    def __init__(self, loss: Loss, scores, targets):
        super().__init__()
        self.subject, self.loss = shown(loss, 1000), copy.deepcopy(loss)
        self.tensors, self.targets = {"scores": as_float64("scores", scores)}, as_float64("targets", targets)
        self.others = {"targets": self.targets, "loss": type(loss).__name__}

    def forward(self):
        return np.array(self.loss.forward(self.tensors["scores"], self.targets), np.float64)

    def backward(self, dout):
        return {"scores": self.loss.backward()}

    def held(self):
        return {"the inputs": [*self.tensors.values(), self.targets]}


class LayerProblem(Problem):
    """A layer or network, or either with a loss, as a float64 copy; its state is put back before a pass: dropout's mask
    stays."""

    def __init__(self, thing, x, targets=None, loss: Loss | None = None, training: bool = True):
        super().__init__()
        container, network = isinstance(thing, Container), isinstance(thing, Sequential)
        self.subject = f"Sequential of {len(thing.layers)} layers" if network else shown(thing, 1000)
        self.subject += f" with {shown(loss, 1000)}" if loss is not None else ""
        self.subject += "" if training else " in evaluation mode"
        self.thing = copy.deepcopy(thing).astype(np.float64)
        self.loss, self.training, self.scalar = copy.deepcopy(loss), training, loss is not None
        self.targets = None if loss is None else as_float64("targets", targets)
        leaves = self.thing.leaves() if container else {"": self.thing}
        self.state = [(leaf, {name: array.copy() for name, array in leaf.state.items()}) for leaf in leaves.values()]
        self.parameters, frozen = {}, []
        for path, leaf in leaves.items():
            for parameter in leaf.parameters:
                name = f"{path}.{parameter.name} ({type(leaf).__name__})" if container else parameter.name
                if parameter.requires_grad:
                    self.parameters[name] = parameter
                else:
                    frozen.append(name)
        self.frozen = tuple(frozen)
        if not container:
            self.others = {"layer": type(thing).__name__, "training": training}
            with contextlib.suppress(AttributeError):  # a layer of the user's own that doesn't keep its arguments
                self.others |= thing.config()
        self.tensors = {"x": as_float64("x", x), **{name: p.value for name, p in self.parameters.items()}}

    def put_state_back(self) -> None:
        """So that a pass has the same mask and running statistics as the one before."""
        for layer, saved in self.state:
            for name, values in saved.items():
                layer.state[name][...] = values

    def value(self) -> np.ndarray:
        """The output of the last forward pass, or the loss of it."""
        return np.array(self.y if self.loss is None else self.loss.forward(self.y, self.targets), np.float64)

    def forward(self):
        self.put_state_back()
        self.y = self.thing.forward(self.tensors["x"], training=self.training)
        return self.value()

    def backward(self, dout):
        dx = self.thing.backward(dout if self.loss is None else self.loss.backward())
        return {"x": dx, **{name: p.grad.copy() for name, p in self.parameters.items()}}

    def held(self):
        caches = [layer.cache for layer, _ in self.state if layer.__dict__.get("_cache") is not None]
        return {"the inputs": list(self.tensors.values()), "the cache": arrays_in(caches)}

    def results(self):
        return [self.y]


class FunctionProblem(Problem):
    """What pairs and loss functions have in common: arguments by name, of which the floating-point arrays have
    gradients.

    Other arguments are copied for every call, so that what a function writes into an option dictionary (running means,
    a generator's state) does not reach the next; NumPy's global generator is put back likewise, so that masks stay the
    same.
    """

    def __init__(self, function: Callable, inputs: tuple):
        super().__init__()
        names = parameter_names(function, len(inputs))
        self.arguments = dict(zip(names, map(_argument, names, inputs), strict=True))
        self.tensors = {n: a for n, a in self.arguments.items() if isinstance(a, np.ndarray) and a.dtype.kind == "f"}
        if not self.tensors:
            got = ", ".join(map(shown, inputs))
            raise TypeError(f"check_gradients: inputs must include an array of floating-point numbers, got {got}")
        self.others = {name: a for name, a in self.arguments.items() if name not in self.tensors}
        self.random = np.random.get_state()  # noqa: NPY002 -- the functions' own, which students' code uses

    def call(self, function: Callable):
        users = np.random.get_state()  # noqa: NPY002
        try:
            np.random.set_state(self.random)  # noqa: NPY002
            return function(*(a if n in self.tensors else copy.deepcopy(a) for n, a in self.arguments.items()))
        finally:
            np.random.set_state(users)  # noqa: NPY002

    def imaginary(self, name, index, h):
        real = self.arguments[name]
        self.arguments[name] = real.astype(np.complex128)
        self.arguments[name].flat[index] += 1j * h
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("error")  # -- NumPy warns where the imaginary part is lost
                return np.imag(np.asarray(self.call(self.forward_function)[0], np.complex128)) / h
        except Exception:
            return None
        finally:
            self.arguments[name] = real

    def named(self, gradients) -> dict[str, np.ndarray]:
        """The gradients by name; ValueError if there are more or fewer than floating-point inputs."""
        gradients = gradients if isinstance(gradients, (tuple, list)) else (gradients,)
        if len(gradients) != len(self.tensors):
            names = ", ".join(self.tensors)
            raise ValueError(
                f"backward returned {len(gradients)} gradients for {len(self.tensors)} floating-point inputs "
                f"({names}); where an input has none, return None for it"
            )
        return {n: _gradient(self.subject, n, g) for n, g in zip(self.tensors, gradients, strict=True)}


class PairProblem(FunctionProblem):
    """`out, cache = forward(x, w, …)` and `dx, dw, … = backward(dout, cache)`."""

    def __init__(self, forward: Callable, backward: Callable, inputs: tuple):
        super().__init__(forward, inputs)
        self.forward_function, self.backward_function = forward, backward
        self.subject = getattr(backward, "__name__", "backward")

    def forward(self):
        result = self.call(self.forward_function)
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            name = getattr(self.forward_function, "__name__", "forward")
            raise ValueError(f"check_gradients: thing: {name} must give (out, cache), got {type(result).__name__}")
        self.out, self.cache = result
        return _real(f"{self.subject}: out", self.out)

    def backward(self, dout):
        return self.named(self.backward_function(dout, self.cache))

    def held(self):
        return {"the inputs": list(self.tensors.values()), "the cache": arrays_in(self.cache)}

    def results(self):
        return arrays_in(self.out)


class OpProblem(PairProblem):
    """An operation of the graph: `forward(context, *inputs)` and `backward(context, *goutputs)`.

    A dictionary as the last input holds forward's options, by name. Several outputs are checked as one vector.
    """

    def __init__(self, op: type[Op], inputs: tuple):
        shapes: list[tuple[int, ...]] = []

        def forward(*inputs):
            context: dict = {}
            *inputs, last = inputs
            out = op.forward(context, *inputs, **last) if isinstance(last, dict) else op.forward(context, *inputs, last)
            if isinstance(out, tuple):
                shapes[:] = map(np.shape, out)
                out = np.concatenate([np.ravel(o) for o in out])
            return out, context

        def backward(dout, context):
            if not shapes:
                return op.backward(context, dout)
            ends = np.cumsum([math.prod(shape) for shape in shapes])
            parts = np.split(dout, ends[:-1])
            return op.backward(context, *(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)))

        forward.__signature__ = signature = inspect.signature(
            partial(op.forward, {})
        )  # where the inputs' names are looked up
        required = [p for p in signature.parameters.values() if p.default is p.empty]
        inputs = tuple(np.array(x) if isinstance(x, float) and k < len(required) else x for k, x in enumerate(inputs))
        super().__init__(forward, backward, inputs)  # numbers are inputs as arrays are, unless they are options
        self.subject = op.__name__


class LossFunctionProblem(FunctionProblem):
    """`loss, dx = f(x, y)`; also `loss, (dx, dw)` or `loss, dx, dw`."""

    scalar = True

    def __init__(self, function: Callable, inputs: tuple):
        super().__init__(function, inputs)
        self.forward_function = function
        self.subject = getattr(function, "__name__", "loss")

    def forward(self):
        result = self.call(self.forward_function)
        if not isinstance(result, (tuple, list)) or len(result) < 2:
            raise ValueError(
                f"check_gradients: thing: {self.subject} must give (loss, dx), got {type(result).__name__}"
            )
        value, self.gradients = _real(f"{self.subject}: loss", result[0]), result[1] if len(result) == 2 else result[1:]
        if value.ndim:
            found = f"got a loss of shape {value.shape}"
            raise ValueError(f"check_gradients: thing: {self.subject} must give a number and its gradient, {found}")
        return value

    def backward(self, dout):
        return self.named(self.gradients)


def _argument(name: str, x):
    """A float64 copy of an array or list of floating-point numbers; anything else is passed on, a copy."""
    kind = x.dtype.kind if isinstance(x, np.ndarray) else ""
    if isinstance(x, list):
        with contextlib.suppress(Exception):  # of no numbers
            kind = np.asarray(x).dtype.kind
            kind = kind if kind in "fc" else ""
    if kind in tuple("biufc"):
        return as_float64(name, x)
    try:
        return copy.deepcopy(x)
    except Exception:
        raise TypeError(f"check_gradients: input {name} can't be copied for each call, got {shown(x)}") from None


def _real(what: str, value) -> np.ndarray:
    """A float64 copy of what a function gives."""
    return np.array(array(f"check_gradients: thing: {what}", value, "biuf"), np.float64)


def _gradient(subject: str, name: str, gradient) -> np.ndarray:
    """As it was given; what is no array of numbers is told of in the report."""
    if isinstance(gradient, np.ndarray):
        return gradient
    try:
        return np.array(gradient)
    except Exception:
        raise TypeError(
            f"check_gradients: thing: {subject}: the gradient of {name} is no array, got {shown(gradient)}"
        ) from None


def parameter_names(function: Callable | type[Op], count: int) -> list[str]:
    """The names of the first `count` parameters; "input 2" for those without."""
    if isinstance(function, type) and issubclass(function, Op):
        function = partial(function.forward, {})  # without the context
    try:
        parameters = inspect.signature(function).parameters.values()
        names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    except (TypeError, ValueError):  # a built-in
        names = []
    return [*names[:count], *(f"input {k}" for k in range(len(names), count))]


def arrays_in(thing, depth: int = 4) -> list[np.ndarray]:
    """The arrays in nested tuples, lists, dictionaries and objects; of an op those that backward reads."""
    if isinstance(thing, np.ndarray) or depth == 0:
        return [thing] if isinstance(thing, np.ndarray) else []
    thing = thing.kept() if isinstance(thing, EngineOp) else thing
    if isinstance(thing, dict):
        parts = thing.values()
    elif isinstance(thing, (tuple, list)):
        parts = thing
    else:
        parts = getattr(thing, "__dict__", {}).values()
    return [array for part in parts for array in arrays_in(part, depth - 1)]
