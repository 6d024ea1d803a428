"""Sequential: layers in a row, with all parameters in one vector and all gradients in another."""

import json
import os
from collections.abc import Mapping

import numpy as np

from . import arguments
from .archives import read_arrays
from .arguments import array, shape, whole
from .costs import CostSheet
from .engine.gradients import Gradients
from .files import write_arrays, written_atomically
from .layers.base import Layer, Parameter, float_dtype
from .memory import aligned
from .plan import Plan, backward_through

PLANS_KEPT = 4  # a network rarely sees more than two input shapes
FORMAT = 1  # of saved networks; raised when an older fastbp could not read a newer file


TASKS = ("classification", "regression")


def _layer_type(name: str) -> type[Layer]:
    """The class of layers that files call by this name."""
    if name in Layer.types:
        return Layer.types[name]
    module, _, plain = name.rpartition(":")
    alike = [kind for key, kind in Layer.types.items() if ":" in key and key.rpartition(":")[2] == plain]
    in_script = [
        kind for kind in alike if "__main__" in (module, kind.__module__) or not module
    ]  # older files name no module
    if len(in_script) == 1:
        return in_script[0]
    where = f", {module}" if module else ""
    raise ValueError(f"layer {plain} is unknown; import the module that defines it first{where}")


def _like(name: str, value, kept: np.ndarray) -> np.ndarray:
    """`value` in the dtype of `kept`, the array that it is to replace, after a check."""
    given = arguments.converted(name, value, kept.dtype)
    if given.shape != kept.shape:
        raise ValueError(f"{name}: expected an array of shape {kept.shape}, got {given.shape}")
    return given


class Sequential:
    """Layers applied one after the other.

    `layers` the layers in order · `dtype` float32 or float64, of every array inside · `seed` a non-negative int · `winograd` 2 or 4

    `winograd` is the side of the tiles in which 3×3 convolutions with stride 1 and many channels are computed (Lavin, Gray 2016).
    Tiles of 2×2 outputs need 16 products where the definition has 36; tiles of 4×4 need 36 for 144, are faster on maps of 4×4 and
    more in batches of more than a few, and round more: float32 outputs differ from exact ones by up to 7·10⁻⁷ of the largest with
    tiles of 2, by up to 4·10⁻⁶ with tiles of 4 (256 channels).

    `parameter_vector` and `gradient_vector` (P,) hold all parameters and all gradients, in the order of the layers; each
    layer's `weight.value`, `weight.grad`, … are views of them. So one optimiser step, one snapshot or one
    norm is one operation on one vector.
    Training by SGD is faster while nobody looks at gradients (see Gradients): the first use of `gradient_vector` or of a `grad`
    computes the last step's, and from then on every step fills the vector. After a step that raised an error they may be NaN.

    The seed determines the first values of all parameters and every dropout mask. Parameters that have been given values before
    (a layer that was used or assigned to) keep them.

    `task` says what the outputs are, "classification" or "regression": that of the loss that the network was last trained with, or
    what you assign; None for a network that nothing has been said of. `fastbp.predict` goes by it, and files keep it.

    >>> from fastbp import Linear, ReLU
    >>> network = Sequential(Linear(4, 3), ReLU(), Linear(3, 2), seed=1)
    >>> network.parameter_vector.shape
    (23,)
    >>> network.forward(np.zeros((5, 4), np.float32)).shape
    (5, 2)
    """

    def __init__(self, *layers: Layer, dtype=np.float32, seed: int = 0, winograd: int = 2):
        for layer in layers:
            if not isinstance(layer, Layer):
                hint = ": unpack it with *" if isinstance(layer, (list, tuple, Sequential)) else ""
                raise TypeError(f"Sequential: expected layers, got {type(layer).__name__}{hint}")
        if not layers:
            raise ValueError("Sequential: expected at least one layer")
        if len({id(layer) for layer in layers}) < len(layers):
            raise ValueError("Sequential: the same layer stands twice; use copy.deepcopy(layer) for a second one")
        self.seed = whole("Sequential: seed", seed, least=0)
        self._winograd = whole("Sequential: winograd", winograd)
        if self._winograd not in (2, 4):
            raise ValueError(f"Sequential: winograd must be 2 or 4, got {winograd!r}")
        self.layers, self._task = tuple(layers), None
        self.metadata: dict = {}
        for index, layer in enumerate(self.layers):
            layer.join(self)
            if "key" in layer.state:
                layer.state["key"][...] = np.random.SeedSequence([self.seed, index, 1]).generate_state(1, np.uint64)[0]
        self._lay_out(float_dtype(dtype))

    def _lay_out(self, dtype: np.dtype) -> None:
        """Put all parameters into two new vectors of `dtype`."""
        self.dtype, self._plans = dtype, {}
        size = sum(parameter.size for parameter in self.parameters)
        try:
            values, gradients = aligned(size, dtype), Gradients(size, dtype)
        except (MemoryError, ValueError):  # of more than memory holds, and of more than any array
            raise MemoryError(f"Sequential: no memory for {size:,} parameters of the layers, {dtype}, twice") from None
        start = 0
        for index, layer in enumerate(self.layers):
            rng = np.random.default_rng([self.seed, index])
            for parameter in layer.parameters:
                part = slice(start, start + parameter.size)
                parameter.place(values[part], gradients.array[part], rng, gradients)
                start = part.stop
            layer.set_dtype(dtype)
        self._values, self.gradients = values, gradients

    @property
    def parameter_vector(self) -> np.ndarray:
        """All parameters, (P,). Assigning to it copies into it, after a check."""
        return self._values

    @parameter_vector.setter
    def parameter_vector(self, values) -> None:
        if values is not self._values:  # as in `network.parameter_vector -= step`
            self._values[...] = _like("parameter_vector", values, self._values)

    @property
    def gradient_vector(self) -> np.ndarray:
        """All gradients, (P,): filled by `backward`, and from now on by every training step."""
        return self.gradients.ask()

    @property
    def winograd(self) -> int:
        """The side of Winograd's tiles, as given to the constructor."""
        return self._winograd

    @property
    def task(self) -> str | None:
        """What the outputs are: "classification", "regression", or None where nobody has said it."""
        return self._task

    @task.setter
    def task(self, task: str | None) -> None:
        if not (task is None or isinstance(task, str) and task in TASKS):
            raise ValueError(
                f"Sequential: task must be one of {', '.join(TASKS)}, or None, got {arguments.shown(task)}"
            )
        self._task = task

    @property
    def parameters(self) -> list[Parameter]:
        return [parameter for layer in self.layers for parameter in layer.parameters]

    @property
    def named_parameters(self) -> dict[str, Parameter]:
        """The parameters as "<index of the layer>.<name>"."""
        return {
            f"{i}.{parameter.name}": parameter for i, layer in enumerate(self.layers) for parameter in layer.parameters
        }

    def forward(self, x: np.ndarray, training: bool = False) -> np.ndarray:
        """The last layer's output for a batch x (N, …) of the network's dtype, layer by layer.

        `training` is for dropout and batch norm."""
        x = self.check(x)
        for layer in self.layers:
            x = layer.forward(x, training=training)
        return x

    def check(self, x: np.ndarray) -> np.ndarray:
        """x, if it is an array (N, …) of the network's dtype; a TypeError or ValueError otherwise."""
        if not isinstance(x, np.ndarray):
            raise TypeError(f"Sequential: expected input to be a NumPy array, got {type(x).__name__}")
        if type(x) is not np.ndarray:
            array("Sequential: input", x)  # no mask is lost
        if x.dtype != self.dtype:
            raise TypeError(
                f"Sequential: expected input of dtype {self.dtype}, got {x.dtype}; convert it with x.astype(numpy.{self.dtype})"
            )
        if x.ndim == 0:
            raise ValueError("Sequential: expected input (N, …), got a single number")
        return x

    def plan(self, input_shape: tuple[int, ...]) -> Plan:
        """How a training step is computed for batches (N, *input_shape): layers, and several at once where there is a kernel.

        Built at the first call for a shape and kept for the last few. ValueError where the shape does not fit the layers.
        """
        try:
            return self._plans[input_shape]  # as in nearly every training step
        except (KeyError, TypeError):
            pass  # a shape that is new, or none
        of_sample = shape("plan: input_shape", input_shape)
        if of_sample not in self._plans:
            if type(self).forward is not Sequential.forward or type(self).backward is not Sequential.backward:
                name = type(self).__name__
                raise TypeError(
                    f"{name} has a forward or backward of its own, which training would not use: put it into a layer"
                )
            if len(self._plans) >= PLANS_KEPT:
                self._plans.pop(next(iter(self._plans)))
            self._plans[of_sample] = Plan(self.layers, of_sample, self.gradients)
        return self._plans[of_sample]

    def forget_plans(self) -> None:
        """Build plans anew from now on; a layer that is changed calls this."""
        self._plans = {}

    def backward(self, dout: np.ndarray, need_dx: bool = True) -> np.ndarray | None:
        """Fill `gradient_vector` from the last forward pass, for dout of its output's shape; return the gradient
        with respect to its input.

        With `need_dx=False` that gradient, which training doesn't need, is not computed and None is returned.
        """
        need_dx = arguments.flag("backward: need_dx", need_dx)
        return backward_through(self.layers, dout, need_dx)

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one sample's output, given one sample's input shape."""
        input_shape = shape("output_shape: input_shape", input_shape)
        for layer in self.layers:
            input_shape = tuple(layer.output_shape(input_shape))
        return input_shape

    def astype(self, dtype) -> "Sequential":
        """Convert all parameters and state to float32 or float64, into new vectors, and return the network."""
        dtype = float_dtype(dtype)
        if dtype != self.dtype:
            self._lay_out(dtype)
        return self

    def costs(self, input_shape: tuple[int, ...], batch: int = 1) -> CostSheet:
        """Parameters, FLOPs and activation memory, of each layer and in all, for `batch` inputs of `input_shape`: see fastbp.costs.

        Print it, or let a notebook show it; `to_json()` for other programs.
        """
        return CostSheet(self.layers, input_shape, batch, self.dtype)

    def summary(self, input_shape: tuple[int, ...], batch: int = 1) -> str:
        """The cost sheet as text: a table of layers, output shapes (N, …), numbers of parameters, FLOPs and bytes."""
        return str(self.costs(input_shape, batch))

    # -- copies and files ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and all state (running statistics, dropout's generators) by "<layer>.<name>"."""
        return {name: array.copy() for name, array in self._arrays().items()}

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {name: parameter.value for name, parameter in self.named_parameters.items()}
        for i, layer in enumerate(self.layers):
            arrays.update({f"{i}.{name}": array for name, array in layer.state.items()})
        return arrays

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Set all parameters and state from a `state_dict`.

        TypeError or ValueError, and nothing changed, for what is no dictionary, other names or shapes, or what is not numbers."""
        if not isinstance(state, Mapping):
            raise TypeError(f"load_state_dict: state must be a dictionary of arrays, got {type(state).__name__}")
        arrays, given = self._arrays(), dict(state)
        if arrays.keys() != given.keys():
            differing = ", ".join(sorted(map(str, arrays.keys() ^ given.keys())))
            raise ValueError(f"load_state_dict: state does not belong to this network: {differing} on one side only")
        taken = {name: _like(f"load_state_dict: {name}", given[name], kept) for name, kept in arrays.items()}
        for name, kept in arrays.items():
            kept[...] = taken[name]

    def save(self, path: str | os.PathLike) -> None:
        """Write the network to one .npz file: layers, parameters, state and `metadata` (anything that JSON can hold).

        The file is written under another name first, so a file of that name is replaced whole or not at all.
        """
        header = {
            "format": FORMAT,
            "dtype": str(self.dtype),
            "seed": self.seed,
            "winograd": self.winograd,
            "task": self.task,
            "layers": [{"type": layer.type_name(), **layer.config()} for layer in self.layers],
            "metadata": self.metadata,
        }
        with written_atomically(path) as file:
            write_arrays(file, {"fastbp": np.array(json.dumps(header)), **self._arrays()})

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Sequential":
        """The network that `save` wrote. ValueError for any other, damaged or truncated file; nothing in it is executed.

        Layers of your own are found by module and class name: define or import them first. For the module `__main__`, a script or a
        notebook, another module's class of that name will do, if there is just one.
        """
        path = arguments.path("path", path)
        try:
            arrays = read_arrays(path)
            header = json.loads(str(arrays.pop("fastbp")))
        except (ValueError, KeyError, RecursionError):
            raise ValueError(f"{path} is not a network saved by fastbp, or it is damaged") from None
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            found = header.get("format") if isinstance(header, dict) else None
            raise ValueError(
                f"{path}: this fastbp reads networks of format {FORMAT}, the file has {found}; upgrade fastbp"
            )
        try:
            layers = []
            for config in header["layers"]:
                layers.append(_layer_type(config.pop("type"))(**config))
            network = cls(*layers, dtype=header["dtype"], seed=header["seed"], winograd=header.get("winograd", 2))
            network.load_state_dict(arrays)
            network.task = header.get("task")
            network.metadata = dict(header["metadata"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} can't be rebuilt: {error}") from None
        return network

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k not in ("_values", "gradients", "_plans")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update({"_task": None, **state})
        for layer in self.layers:
            layer.join(self)
        self._lay_out(self.dtype)

    def __repr__(self) -> str:
        inner = "".join(f"    {layer!r},\n" for layer in self.layers)
        return f"Sequential(\n{inner}    dtype={self.dtype}, seed={self.seed}, winograd={self.winograd},\n)"
