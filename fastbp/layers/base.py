"""What every layer has: parameters, state, checks at the door, and a cache between forward and backward."""

import copy
import inspect
import math
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ..arguments import Checked, Setting, flag, owned, unmasked, whole
from ..arguments import shape as shape_of
from ..dtypes import FLOATS, float_dtype
from ..engine.ops import Op, kind_of, op_alone
from ..flops import Cost
from ..parameters import HasParameters, Parameter, State

PASSES = "forward", "backward"  # set on a layer, they are called in place of its kernels
SIZE_LIMIT = 2**31 - 1  # of features, channels, windows: kernels count some of them in 32 bits


def held_layers(value) -> "Iterator[Layer]":
    """The layers in a list, tuple or dictionary, however deep; a layer itself."""
    if isinstance(value, Layer):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from held_layers(each)


class Layer(Checked, HasParameters):
    """A differentiable function with parameters. A layer of your own defines `forward`, `backward` and `output_shape`.

    - `y = forward(x, training=False, out=None)`; x is not modified. What backward needs is kept in `cache`, by
      reference: don't write to x (or to y, where the docstring says that the output is kept) in between.
    - `dx = backward(dout, need_dx=True, out=None)` for dout of y's shape fills each parameter's `grad` (overwriting,
      not accumulating) and returns the gradient with respect to x, or None with `need_dx=False`. It modifies
      neither dout nor the cache, so calling it twice gives the same. RuntimeError before any forward.
    - `out`, if given, receives the result: C-contiguous, of the result's shape and dtype, not overlapping the input.
    - Arrays are float32 or float64, of the layer's own dtype where it has parameters. Input of another kind, shape or
      dtype is a TypeError or ValueError that says what was expected, and so are masked arrays and np.matrix;
      non-contiguous and read-only input is copied.
    - A batch of no samples is allowed: the result is empty and the parameters' gradients are zero (batch
      norm in training mode is the exception: an empty batch has no mean).
    - NaN that comes in goes out, wherever the output depends on it.
    - `state` holds the arrays that are not learned but belong to a checkpoint (running statistics, a generator's step).
    - Constructor arguments are kept as attributes of the same names: that is how a network is saved and shown. The
      package's layers check them again whenever they are set, and after that a pass that was made before has no
      backward any more. Sizes that arrays have been made for, and the parameters themselves, can't be
      set: AttributeError.

    A layer can have, in place of `forward` and `backward`, kernels that the engine calls for parts of a batch and on
    several threads: an `Op` that `@computes` it (fastbp.engine). Then `accept(x)` says which input it takes. The
    package's layers are made so, each with its op below it.

    `number_names` are settings that kernels read from the array `numbers`, so that nothing is made anew when one is
    set.
    """

    opens = False  # is it a container that the engine opens?
    contains = False  # may it hold layers: is it a container, whose children a network sees?
    number_names: tuple[str, ...] = ()
    _cache = None

    dtype: np.dtype | None = None  # None: float32 and float64 are both accepted
    types: dict[str, type["Layer"]] = {}  # every subclass by its `type_name`, for loading a saved network

    state = Setting(lambda what, arrays: State(arrays))

    def __init_subclass__(cls):
        super().__init_subclass__()
        for name in ("forward_calls", "input_calls", "parameter_calls"):
            if name in vars(cls):
                raise TypeError(
                    f"{cls.__name__}: layers have no {name}; kernels belong into a fastbp.engine.Op that computes it"
                )
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
        """What was made for a setting goes when it changes: a pass has no backward, and calls are bound anew."""
        if name[0] == "_" or name == "cache":
            object.__setattr__(self, name, value)
            return
        super().__setattr__(name, value)
        if not self.contains and any(layer.parameters or layer.state for layer in held_layers(value)):
            warnings.warn(
                f"{type(self).__name__}: a network does not see the layers in {name}, so their state is not saved, and "
                "their dtype and seeds are their own; derive the class from fastbp.Container",
                stacklevel=2,
            )
        if name in self._settings_by_name and name != "state":
            self._cache = None
        if name in self.number_names:
            if (numbers := self.__dict__.get("_numbers")) is not None:
                numbers[self.number_names.index(name)] = getattr(self, name)
        elif (network := self.network) is not None and (name in PASSES or kind_of(self) is not None):
            network.forget_engines()

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        if name in PASSES and (network := self.network) is not None:
            network.forget_engines()

    @property
    def numbers(self) -> np.ndarray:
        """The settings `number_names`, float64, in an array that stays the same: kernels read it at each pass."""
        if "_numbers" not in self.__dict__:
            self._numbers = np.array([getattr(self, name) for name in self.number_names], np.float64)
        return self._numbers

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
        """What the last forward left for backward: arrays by name, or what a layer of your own has put here."""
        if self._cache is None:
            raise RuntimeError(f"{type(self).__name__}.backward called before forward")
        return self._cache.kept() if isinstance(self._cache, Op) else self._cache

    @cache.setter
    def cache(self, value) -> None:
        self._cache = value

    def expect(self, x: np.ndarray, *shape: str | int, what: str = "input") -> np.ndarray:
        """`x` as a kernel wants it, after a check of kind, dtype and shape; a letter in `shape` is any size, ... any
        sizes."""
        fits = type(x) is np.ndarray and x.dtype is self.dtype and len(x.shape) == len(shape)
        if fits:  # the usual case, without what only an error needs
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
            sizes = ", ".join("..." if d is ... else str(d) for d in shape) + "," * (len(shape) == 1)
            raise ValueError(f"{name}: expected {what} ({sizes}), got {x.shape}")

    def buffer(self, out: np.ndarray | None, shape: tuple[int, ...], like: np.ndarray) -> np.ndarray:
        """`out` after a check, or a new array of `shape` and the dtype of `like`, the input that it must not
        overlap."""
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

    # -- for users -----------------------------------------------------------------------------------------------

    def forward(self, x: np.ndarray, training: bool = False, out: np.ndarray | None = None) -> np.ndarray:
        if training is not True and training is not False:
            training = flag(f"{type(self).__name__}: training", training)
        x = self.accept(x)
        y = self.buffer(out, self.batch_shape(x.shape), x)
        op = self._op_for(x, y, training)
        op.run("prepare")
        op.run("forward")
        op.layer = None  # the layer keeps the op: a circle would last until the collector comes
        op.layers = ()
        self._cache = op
        return y

    def backward(self, dout: np.ndarray, need_dx: bool = True, out: np.ndarray | None = None) -> np.ndarray | None:
        if need_dx is not True and need_dx is not False:
            need_dx = flag(f"{type(self).__name__}: need_dx", need_dx)
        op = self._cache
        if not isinstance(op, Op):
            raise RuntimeError(f"{type(self).__name__}.backward called before forward")
        x, y = op.given
        dout = self.expect(dout, *y.shape, what="dout")
        dx = self.buffer(out, x.shape, dout) if need_dx else None
        for parameter in self.parameters[:1]:
            parameter.grad  # noqa: B018 -- who calls this looks at gradients, so what training has left open is computed first
        op.layer, op.dout = self, dout if y.ndim else dout.reshape(1)
        if op.trained or op.parameters and need_dx and not op.apart:
            op.run("gradients", into={parameter: parameter.grad_array for parameter in op.parameters})
        if need_dx:
            op.dxs[0] = dx if y.ndim else dx.reshape(1)
            op.run("backward")
        for parameter in op.frozen:
            parameter.grad_array[...] = 0
        op.layer = op.dout = op.dxs[0] = None
        return dx

    def _op_for(self, x: np.ndarray, y: np.ndarray, training: bool) -> Op:
        """The op of the last pass, if it was one for such arrays, or a new one, bound to x and y.

        It is taken out of the cache while it works, so that two threads never have the same."""
        op, inside = self.__dict__.pop("_cache", None), (x, y) if x.ndim else (x.reshape(1), y.reshape(1))
        if (
            not isinstance(op, Op)
            or op.given[0].shape != x.shape
            or op.given[0].dtype != x.dtype
            or op.setting.training is not training
        ):
            op = op_alone(self, *inside, training)
        op.inputs[0].array, op.output.array = inside
        op.layer, op.given = self, (x, y)
        return op

    def batch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the output for an input of `shape`, both with the batch."""
        return (shape[0], *self.output_shape(shape[1:]))

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one sample's output, given one sample's input shape (both without the batch)."""
        raise TypeError(f"{type(self).__name__} does not define output_shape")

    def multiply_adds(self, *input_shapes: tuple[int, ...]) -> int:
        """The multiply–adds of one sample's forward pass in products with weights: an output's pixels times the
        weights."""
        weights = sum(parameter.size for parameter in self.parameters if len(parameter.shape) > 1)
        return weights and weights * math.prod(self.output_shape(*map(self.sample_shape, input_shapes))[1:])

    def before_pass(self) -> Iterable[Callable[[], None]]:
        """The calls that make its parameters anew before each pass, for a layer that stands for others."""
        return ()

    def costs(self, input_shape: tuple[int, ...], N: int) -> Cost | None:
        """FLOPs of the forward and backward pass of N samples, by the conventions of fastbp.costs; None: not known."""
        return None

    def astype(self, dtype) -> "Layer":
        """Convert parameters and floating state to float32 or float64, in place, and return the layer."""
        self._refuse_in_network()
        dtype = float_dtype(dtype)
        for parameter in self.parameters:
            parameter.astype(dtype)
        self.set_dtype(dtype)
        return self

    def _refuse_in_network(self) -> None:
        if self.network is not None:
            raise ValueError(f"{type(self).__name__} belongs to a network: call the network's astype instead")

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
        return network if network is not None and network.holds(self) else None

    def check_free(self, network) -> None:
        """ValueError where this layer belongs to another network, that is no part of this one."""
        owner = self.network
        if owner is not None and owner is not network and not network.holds(owner):
            raise ValueError(
                f"{self!r} belongs to another network; use copy.deepcopy(layer) for a copy with its values"
            )

    def join(self, network) -> None:
        """Called by the network that takes this layer; a layer belongs to one network at most."""
        self._network = weakref.ref(network)

    def config(self) -> dict:
        """The constructor's arguments as JSON can hold them: without initialiser objects, layers as entries."""
        return {argument.name: written(value) for argument, value in self._arguments()}

    def _arguments(self) -> Iterator[tuple[inspect.Parameter, object]]:
        """The constructor's arguments and their values; AttributeError where the layer does not keep one."""
        for name, argument in inspect.signature(type(self)).parameters.items():
            yield from self._argument(name, argument)

    def _argument(self, name: str, argument: inspect.Parameter) -> Iterator[tuple[inspect.Parameter, object]]:
        value = getattr(self, name)
        if isinstance(argument.default, bool):  # bias=True became the parameter, bias=False None
            value = isinstance(value, Parameter) or bool(value)
        if value is None or isinstance(value, (bool, int, float, str, list, tuple, Layer)) or any(held_layers(value)):
            yield argument, value

    def entry(self) -> dict:
        """What a file says of this layer: its type, and its `config`."""
        return {"type": self.type_name(), **self.config()}

    def sharing(self) -> "Layer":
        """A layer with the same parameters and state, and a cache of its own."""
        return copy.copy(self)

    def __getstate__(self) -> dict:
        """For copies and pickles: without the network, the last pass, and the array of numbers that kernels read."""
        state = {**self.__dict__, "_network": None, "_cache": None}
        state.pop("_numbers", None)
        return state

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(owned(state))

    def __repr__(self) -> str:
        """The call that makes this layer, arguments at their defaults left out: Conv2d(3, 8, (3, 5), stride=2)."""
        try:
            arguments = list(self._arguments())
        except AttributeError:  # a layer of one's own that does not keep its arguments
            return f"{type(self).__name__}(…)"
        shown = []
        for argument, value in arguments:
            if argument.kind is argument.VAR_POSITIONAL:
                shown += map(repr, value)
                continue
            if argument.kind is argument.VAR_KEYWORD:
                shown += [f"{name}={each!r}" for name, each in value.items()]
                continue
            if isinstance(value, (list, tuple)) and not any(held_layers(value)):
                value = value[0] if len(set(value)) == 1 else tuple(value)
            if argument.default is argument.empty:
                shown.append(repr(value))
            elif value != argument.default and value is not None:
                shown.append(f"{argument.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


def written(value):
    """A constructor's argument for a file: layers as their entries, tuples as lists."""
    if isinstance(value, Layer):
        return value.entry()
    if isinstance(value, dict):
        return {name: written(each) for name, each in value.items()}
    return [written(each) for each in value] if isinstance(value, (list, tuple)) else value
