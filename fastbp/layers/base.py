"""What every layer has: parameters, state, checks at the door, and a cache between forward and backward."""

import contextlib
import copy
import inspect
import math
import weakref
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ..arguments import LARGEST, Checked, Setting, array, converted, flag, function, owned, shown, text, unmasked, whole
from ..arguments import shape as shape_of
from ..costs import Cost

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
FLOAT_NAMES = {"float32", "float64", "single", "double", "float", "f4", "f8", "<f4", "<f8", "=f4", "=f8", "f", "d"}
SIZE_LIMIT = 2**31 - 1  # of features, channels, windows: kernels count some of them in 32 bits


def float_dtype(dtype) -> np.dtype:
    """`dtype` as float32 or float64; anything else is a TypeError."""
    found = None
    if isinstance(dtype, (type, np.dtype)) or (isinstance(dtype, str) and dtype in FLOAT_NAMES):
        with contextlib.suppress(Exception):  # of a class that only looks like a dtype
            found = np.dtype(dtype)
    if found is None or found not in FLOATS:
        raise TypeError(f"dtype must be float32 or float64, got {shown(dtype) if found is None else found}")
    return found


class Parameter:
    """A learned array and its gradient: `value`, `grad` (both `shape`, one dtype) and `name`.

    The values are drawn when they are first needed: with its network's seed where the layer has been put
    into a network, with seed 0 where it stands alone. Assigning to `value` or `grad` copies into the
    existing array, so a network's flat vectors stay in step.

    A network that is trained fills its gradients from the first time that one is asked for: see Sequential.
    """

    def __init__(self, name: str, shape: tuple[int, ...], draw: Callable[[np.random.Generator], np.ndarray]):
        self.name, self.shape, self.dtype = (
            text("Parameter: name", name),
            shape_of(f"{name}: shape", shape),
            np.dtype(np.float32),
        )
        if 8 * self.size > LARGEST:
            raise ValueError(f"{name}: shape {self.shape} is larger than any array")
        function(f"{name}: draw", draw, "a function of a np.random.Generator")
        self._draw, self._value, self._grad, self._gradients = draw, None, None, None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def value(self) -> np.ndarray:
        if self._value is None:
            try:
                values, grads = np.empty(self.size, self.dtype), np.zeros(self.size, self.dtype)
            except MemoryError:
                raise MemoryError(
                    f"{self.name}: no memory for two arrays of shape {self.shape}, {self.dtype}"
                ) from None
            self.place(values, grads, np.random.default_rng(0))
        return self._value

    @value.setter
    def value(self, array) -> None:
        self.value[...] = self._checked("value", array)

    @property
    def grad(self) -> np.ndarray:
        if self._gradients is not None:
            self._gradients.ask()
        return self.grad_array

    @property
    def grad_array(self) -> np.ndarray:
        """`grad` for kernels that write it: nobody has asked for what is in it."""
        self.value  # noqa: B018 -- draws the values and makes both arrays
        return self._grad

    @grad.setter
    def grad(self, array) -> None:
        self.grad[...] = self._checked("grad", array)

    def _checked(self, what: str, array) -> np.ndarray:
        """`array`, if it can be this parameter's `what`."""
        array = converted(f"{self.name}: {what}", array, self.dtype)
        if array.shape != self.shape:
            raise ValueError(f"{self.name}: expected an array of shape {self.shape}, got {array.shape} for its {what}")
        return array

    def place(self, values: np.ndarray, grads: np.ndarray, rng: np.random.Generator, gradients=None) -> None:
        """Move to the flat arrays `values` and `grads` (both (size,)), drawing with `rng` what has no values yet.

        `gradients` is the network's Gradients that `grads` is a part of."""
        self._complete()
        values[:] = np.ravel(self._checked("first value", self._draw(rng)) if self._value is None else self._value)
        grads[:] = 0 if self._grad is None else self._grad.ravel()
        self.dtype = values.dtype
        self._value, self._grad, self._gradients = values.reshape(self.shape), grads.reshape(self.shape), gradients

    def _complete(self) -> None:
        if self._gradients is not None:
            self._gradients.complete()

    def astype(self, dtype) -> None:
        """Change the dtype; values that are not drawn yet stay so."""
        self.dtype = dtype = float_dtype(dtype)
        if self._value is not None:
            with np.errstate(over="ignore"):  # what float32 has not becomes infinite
                self._value, self._grad = self._value.astype(dtype), self._grad.astype(dtype)

    def __getstate__(self) -> dict:
        """For copies and pickles: with values drawn, without the function that draws them."""
        self.value  # noqa: B018
        self._complete()
        return {**self.__dict__, "_draw": None, "_gradients": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(owned(state))

    def __repr__(self) -> str:
        return f"Parameter({self.name!r}, shape={self.shape}, dtype={self.dtype})"


class Pass:
    """The arrays of one pass through a layer, forward and back, which its kernels are bound to.

    `x`, `y` input and output · `dout`, `dx` their gradients, once they are wanted · `training` as in forward
    `first` the number in the batch of x's first sample, where x is a part of a batch · `channels` the (first, last) channels to
    compute, where a part is a range of channels: of y forward, of dx back · `terms` the (first, last) channels of dout that dx is a
    sum over, where a part's dx is a share of it · `relu` whether y is to be max(0, output), for layers that say `takes_relu`
    What else backward needs (an argmax, a mask's key), the layer adds as attributes.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, training: bool):
        self.x, self.y, self.training = x, y, training
        self.dout = self.dx = self.channels = self.terms = None
        self.first, self.relu = 0, False
        self.grads: dict[Parameter, np.ndarray] = {}

    def grad(self, parameter: Parameter) -> np.ndarray:
        """Where the gradient of `parameter` goes: its own `grad`, or this part's share of the sum over the batch."""
        share = self.grads.get(parameter)
        return parameter.grad_array if share is None else share

    def samples(self, first: int, last: int) -> "Pass":
        """The part of this pass for samples [first, last)."""
        part = copy.copy(self)
        part.first, part.grads = first, {}
        for name in ("x", "y", "dout", "dx"):
            array = getattr(self, name)
            setattr(part, name, None if array is None else array[first:last])
        return part

    def of_channels(self, first: int, last: int) -> "Pass":
        """The part of this pass for channels [first, last) of all samples."""
        part = copy.copy(self)
        part.channels, part.grads = (first, last), {}
        return part


def run(calls: Iterable[Callable[[], None]]) -> None:
    """Make the calls, in order."""
    for call in calls:
        call()


class State(dict):
    """Arrays by name. Assigning to a name, or updating, copies into its array, so whatever holds the array stays in step.

    What can't be such an array is a TypeError or a ValueError, and nothing has changed."""

    def __init__(self, *arrays, **named):
        self.update(*arrays, **named)

    def __setitem__(self, name: str, value) -> None:
        self.update({name: value})

    def update(self, *arrays, **named) -> None:
        try:
            given = dict(*arrays, **named)
        except Exception:
            raise TypeError(f"state must be a dict of arrays by name, got {', '.join(map(shown, arrays))}") from None
        for name, value in [(name, self._checked(name, value)) for name, value in given.items()]:
            if name in self:
                self[name][...] = value
            else:
                super().__setitem__(name, value)

    def _checked(self, name: str, value) -> np.ndarray:
        what, held = f"state: {text('state: a name', name)}", self.get(name)
        if held is None:
            return np.require(array(what, value), requirements="CAW")
        value = converted(what, value, held.dtype)
        try:
            return np.broadcast_to(value, held.shape)
        except ValueError:
            raise ValueError(f"{what} must be an array of shape {held.shape}, got {value.shape}") from None

    def __ior__(self, arrays) -> "State":
        self.update(arrays)
        return self


class Layer(Checked):
    """A differentiable function with parameters. A layer of your own defines `forward`, `backward` and `output_shape`.

    - `y = forward(x, training=False, out=None)`; x is not modified. What backward needs is kept in `cache`, by
      reference: don't write to x (or to y, where the docstring says that the output is kept) in between.
    - `dx = backward(dout, need_dx=True, out=None)` for dout of y's shape fills each parameter's `grad` (overwriting, not
      accumulating) and returns the gradient with respect to x, or None with `need_dx=False`. It modifies
      neither dout nor the cache, so calling it twice gives the same. RuntimeError before any forward.
    - `out`, if given, receives the result: C-contiguous, of the result's shape and dtype, not overlapping the input.
    - Arrays are float32 or float64, of the layer's own dtype where it has parameters. Input of another kind, shape or
      dtype is a TypeError or ValueError that says what was expected, and so are masked arrays and np.matrix; non-contiguous
      and read-only input is copied.
    - A batch of no samples is allowed: the result is empty and the parameters' gradients are zero (batch
      norm in training mode is the exception: an empty batch has no mean).
    - NaN that comes in goes out, wherever the output depends on it.
    - `state` holds the arrays that are not learned but belong to a checkpoint (running statistics, a generator's step).
    - Constructor arguments are kept as attributes of the same names: that is how a network is saved and shown. The package's
      layers check them again whenever they are set, and what has been made for a setting goes: a pass made with the old one has no
      backward. Sizes that arrays have been made for, and the parameters themselves, can't be set: AttributeError.

    The package's own layers define, in place of forward and backward, the kernel calls that they consist of, bound to the arrays
    of a `Pass`; forward and backward make these calls, and a network's plan makes them in parts of a batch and on several threads:

    - `accept(x)`: the input after a check
    - `prepare_calls(p)`: once before a forward pass, for the whole batch
    - `forward_calls(p)`: y · `parameter_calls(p)`: the parameters' gradients · `input_calls(p)`: dx

    Each may be made for some samples of a batch, unless the layer has `mixes_samples`: then for some channels of all samples,
    and dx after the gradients of the parameters.
    Gradients go to `p.grad(parameter)`, the part's share of the sum over the batch. A layer that `splits_rows` can also make
    `parameter_calls(p, rows)` for rows [first, last) of its first parameter and the whole batch. One that `splits_features` is
    always called so, and a part may also be some channels of all samples, forward and back, or some terms of dx. One that
    `takes_relu` heeds `p.relu`.
    One with `descent_calls(p, rows, values, grads, velocity, settings)` can make `sgd_update` for those rows (and the bias, if they
    are the last) with gradients that it does not keep; the vectors are those rows' parts of the flat ones.
    """

    takes_relu = False  # forward_calls can apply a ReLU that follows (and backward's, for layers that mix samples)
    mixes_samples = False
    splits_rows = splits_features = False

    dtype: np.dtype | None = None  # None: float32 and float64 are both accepted
    types: dict[str, type["Layer"]] = {}  # every subclass by its `type_name`, for loading a saved network

    state = Setting(lambda what, arrays: State(arrays))

    def __init_subclass__(cls):
        super().__init_subclass__()
        Layer.types[cls.type_name()] = cls

    @classmethod
    def type_name(cls) -> str:
        """The name of the class in saved networks: "ReLU" for the package's own, "module:class" for others.

        So a class of yours never stands for one of the package's that has the same name."""
        ours = cls.__module__.partition(".")[0] == __name__.partition(".")[0]
        return cls.__name__ if ours else f"{cls.__module__}:{cls.__qualname__}"

    def __init__(self):
        self.parameters: list[Parameter] = []
        self.state = State()
        self._cache = None
        self._network = None  # weak reference to the network that owns this layer

    def __setattr__(self, name: str, value) -> None:
        """An attribute that changes (a rate, a slope) changes the calls that a network has bound to it; and a pass made with other
        settings has no way back."""
        if name[0] == "_" or name == "cache":
            object.__setattr__(self, name, value)
            return
        super().__setattr__(name, value)
        if name in self._settings_by_name and name != "state":
            self._cache = None
        ours = type(self).forward is Layer.forward and type(self).backward is Layer.backward
        if ours and (network := self.network) is not None:
            network.forget_plans()

    # -- for subclasses ------------------------------------------------------------------------------------------

    def parameter(
        self, name: str, shape: tuple[int, ...], draw: Callable[[np.random.Generator], np.ndarray]
    ) -> Parameter:
        """Add a parameter; `draw(rng)` gives its first values."""
        parameter = Parameter(name, shape, draw)
        self.dtype = self.dtype or np.dtype(np.float32)
        self.parameters.append(parameter)
        return parameter

    @property
    def cache(self):
        """What the last forward left for backward: the Pass, or what a layer of your own has put here."""
        if self._cache is None:
            raise RuntimeError(f"{type(self).__name__}.backward called before forward")
        return self._cache

    @cache.setter
    def cache(self, value) -> None:
        self._cache = value

    def expect(self, x: np.ndarray, *shape: str | int, what: str = "input") -> np.ndarray:
        """`x` as a kernel wants it, after a check of kind, dtype and shape; a letter in `shape` is any size, ... any sizes."""
        fits = type(x) is np.ndarray and x.dtype is self.dtype and len(x.shape) == len(shape)
        if fits:  # the usual case, without what only an error needs: 1.1 instead of 1.6 µs
            for wanted, size in zip(shape, x.shape, strict=True):
                if wanted != size and not isinstance(wanted, str):
                    fits = False
        if not fits:
            self._refuse(x, shape, what)
            x = x if type(x) is np.ndarray else np.asarray(x)
        if x.flags.carray:
            return x
        try:
            return np.require(x, requirements="CAW")
        except MemoryError:
            raise MemoryError(f"{type(self).__name__}: no memory for a copy of {what}, {x.dtype} {x.shape}") from None

    def _refuse(self, x, shape: tuple, what: str) -> None:
        """The error that x deserves, if any."""
        name = type(self).__name__
        if not isinstance(x, np.ndarray):
            raise TypeError(f"{name}: expected {what} to be a NumPy array, got {type(x).__name__}")
        if type(x) is not np.ndarray:
            unmasked(f"{name}: {what}", x)
        if x.dtype not in FLOATS or (self.dtype is not None and x.dtype != self.dtype):
            wanted = self.dtype or "float32 or float64"
            raise TypeError(f"{name}: expected {what} of dtype {wanted}, got {x.dtype}")
        fits = len(x.shape) >= len(shape) - 1 if ... in shape else len(x.shape) == len(shape)
        if not fits or any(isinstance(d, int) and d != size for d, size in zip(shape, x.shape, strict=False)):
            wanted = (
                "(" + ", ".join("..." if d is ... else str(d) for d in shape) + ("," if len(shape) == 1 else "") + ")"
            )
            raise ValueError(f"{name}: expected {what} {wanted}, got {x.shape}")

    def buffer(self, out: np.ndarray | None, shape: tuple[int, ...], like: np.ndarray) -> np.ndarray:
        """`out` after a check, or a new array of `shape` and the dtype of `like`, the input that it must not overlap."""
        if out is None:
            try:
                return np.empty(shape, like.dtype)
            except (MemoryError, ValueError):  # of more than memory holds, and of more than any array
                raise MemoryError(f"{self!r}: no memory for {like.dtype} {shape} from {like.shape}") from None
        name = type(self).__name__
        unmasked(f"{name}: out", out)
        if not isinstance(out, np.ndarray) or out.shape != shape or out.dtype != like.dtype or not out.flags.carray:
            got = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
            raise ValueError(
                f"{name}: expected out to be a C-contiguous, writable {like.dtype} array {shape}, got {got}"
            )
        if np.may_share_memory(out, like):
            raise ValueError(f"{name}: out overlaps the input")
        return out

    def sample_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """`input_shape` as a tuple of ints, after a check."""
        if type(input_shape) is tuple:  # the usual case, of a forward pass
            for size in input_shape:
                if type(size) is not int or size < 0:
                    break
            else:
                return input_shape
        return shape_of(f"{type(self).__name__}: input_shape", input_shape)

    def batch_of(self, input_shape: tuple[int, ...], N: int) -> tuple[tuple[int, ...], int]:
        """The arguments of `costs` after a check: `input_shape` fits this layer, and N is a number of samples."""
        input_shape = self.sample_shape(input_shape)
        self.output_shape(input_shape)
        return input_shape, whole(f"{type(self).__name__}: N", N)

    def accept(self, x: np.ndarray) -> np.ndarray:
        """The input as kernels want it, after a check."""
        return self.expect(x, "N", ...)

    def prepare_calls(self, p: Pass) -> Iterator[Callable[[], None]]:
        return iter(())

    def forward_calls(self, p: Pass) -> Iterator[Callable[[], None]]:
        raise TypeError(f"{type(self).__name__} does not define forward")

    def input_calls(self, p: Pass) -> Iterator[Callable[[], None]]:
        raise TypeError(f"{type(self).__name__} does not define backward")

    def parameter_calls(self, p: Pass, rows: tuple[int, int] | None = None) -> Iterator[Callable[[], None]]:
        return iter(())

    # -- for users -----------------------------------------------------------------------------------------------

    def forward(self, x: np.ndarray, training: bool = False, out: np.ndarray | None = None) -> np.ndarray:
        if training is not True and training is not False:
            training = flag(f"{type(self).__name__}: training", training)
        x = self.accept(x)
        y = self.buffer(out, self.batch_shape(x.shape), x)
        p = Pass(x, y, training)
        run(self.prepare_calls(p))
        run(self.forward_calls(p))
        self.cache = p
        return y

    def backward(self, dout: np.ndarray, need_dx: bool = True, out: np.ndarray | None = None) -> np.ndarray | None:
        if need_dx is not True and need_dx is not False:
            need_dx = flag(f"{type(self).__name__}: need_dx", need_dx)
        p = copy.copy(self.cache)
        p.dout = self.expect(dout, *p.y.shape, what="dout")
        for parameter in self.parameters[:1]:
            parameter.grad  # noqa: B018 -- whoever calls this looks at gradients: what training has left open is computed before
        run(self.parameter_calls(p))
        if need_dx:
            p.dx = self.buffer(out, p.x.shape, p.dout)
            run(self.input_calls(p))
        return p.dx

    def batch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the output for an input of `shape`, both with the batch."""
        return (shape[0], *self.output_shape(shape[1:]))

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one sample's output, given one sample's input shape (both without the batch)."""
        raise TypeError(f"{type(self).__name__} does not define output_shape")

    def multiply_adds(self, input_shape: tuple[int, ...]) -> int:
        """The multiply–adds of one sample's forward pass in products with weights: an output's pixels times the weights."""
        weights = sum(parameter.size for parameter in self.parameters if len(parameter.shape) > 1)
        shape = self.sample_shape(input_shape)
        return weights and weights * math.prod(self.output_shape(shape)[1:])

    def costs(self, input_shape: tuple[int, ...], N: int) -> Cost | None:
        """FLOPs of the forward and backward pass of N samples, by the conventions of fastbp.costs; None: not known."""
        return None

    def algorithm(self, input_shape: tuple[int, ...]) -> str:
        """How it is computed for such input, in a few words; empty for a plain loop over the elements."""
        return ""

    def astype(self, dtype) -> "Layer":
        """Convert parameters and floating state to float32 or float64, in place, and return the layer."""
        if self.network is not None:
            raise ValueError(f"{type(self).__name__} belongs to a network: call the network's astype instead")
        dtype = float_dtype(dtype)
        for parameter in self.parameters:
            parameter.astype(dtype)
        self.set_dtype(dtype)
        return self

    def set_dtype(self, dtype: np.dtype) -> None:
        """Expect arrays of `dtype` from now on, and convert the state to it; the parameters have been converted."""
        converted = {
            name: array.astype(dtype) if array.dtype in FLOATS else array for name, array in self.state.items()
        }
        self.state = State(converted)
        self.dtype = dtype if self.dtype is not None else None
        self.cache = None

    @property
    def network(self):
        """The network that this layer belongs to, or None."""
        network = self.__dict__.get("_network")
        network = network and network()
        return network if network is not None and any(layer is self for layer in network.layers) else None

    def join(self, network) -> None:
        """Called by the network that takes this layer; a layer belongs to one network at most."""
        if self.network is not None and self.network is not network:
            raise ValueError(
                f"{self!r} belongs to another network; use copy.deepcopy(layer) for a copy with its values"
            )
        self._network = weakref.ref(network)

    def config(self) -> dict:
        """The constructor's arguments as they can be written to JSON (an initialiser object is left out)."""
        config = {}
        for name, argument in inspect.signature(type(self)).parameters.items():
            value = getattr(self, name)
            if isinstance(argument.default, bool):  # bias=True became the parameter, bias=False None
                value = isinstance(value, Parameter) or bool(value)
            value = list(value) if isinstance(value, tuple) else value
            if value is None or isinstance(value, (bool, int, float, str, list)):
                config[name] = value
        return config

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_network": None, "_cache": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(owned(state))

    def __repr__(self) -> str:
        """The call that makes this layer, arguments at their defaults left out: Conv2d(3, 8, (3, 5), stride=2)."""
        config, shown = self.config(), []
        for name, argument in inspect.signature(type(self)).parameters.items():
            if name not in config or config[name] == argument.default:
                continue
            value = config[name]
            if isinstance(value, list):
                value = value[0] if len(set(value)) == 1 else tuple(value)
            if argument.default is argument.empty:
                shown.append(repr(value))
            elif value != argument.default and value is not None:
                shown.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"
