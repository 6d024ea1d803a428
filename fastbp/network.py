"""Sequential: layers in a row, with all parameters in one vector and all gradients in another."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np

from . import arguments
from .archives import read_arrays
from .arguments import array, instance, shape, whole
from .costs import CostSheet
from .dtypes import float_dtype
from .engine.engine import Engine
from .engine.gradients import Gradients
from .engine.machine import USUAL, Machine
from .files import write_arrays, written_atomically
from .layers.base import Layer
from .layers.blocks import Chain, Container
from .layers.entries import built
from .memory import aligned

ENGINES_KEPT = 4  # a network rarely sees more than two input shapes
# of saved networks with layers inside layers, or a Machine of their own; others have 1, which older versions read
FORMAT = 2
TASKS = ("classification", "regression")


def seeds_of(path: str) -> list[int]:
    """A path as whole numbers for a generator's seed: "3.body.0" is 3, the bytes of "body", 0."""
    return [int(name) if name.isdigit() else int.from_bytes(name.encode(), "little") for name in path.split(".")]


def _like(name: str, value, kept: np.ndarray) -> np.ndarray:
    """`value` in the dtype of `kept`, the array that it is to replace, after a check."""
    given = arguments.converted(name, value, kept.dtype)
    if given.shape != kept.shape:
        raise ValueError(f"{name}: expected an array of shape {kept.shape}, got {given.shape}")
    return given


class Sequential(Chain):
    """Layers applied one after the other: a network, or a part of one.

    `layers` the layers in order · `dtype` float32 or float64, of every array inside · `seed` a non-negative int ·
    `winograd` 2 or 4 · `machine` the sizes by which the engine cuts work into parts (fastbp.engine.Machine)

    Layers may hold layers: `Residual`, `Concat`, another Sequential, a `Container` of your own. Parameters are named by
    the path to them, "3.body.0.weight". A Sequential inside another takes that one's dtype, seed, winograd and machine,
    and gives its vectors up.

    `winograd` is the largest side of the tiles in which 3×3 convolutions with stride 1 and many channels are computed
    (Lavin, Gray 2016). Tiles of 4×4 outputs need 36 products where the definition has 144, those of 2×2 16 for 36. They
    round more: float32 outputs differ from exact ones by up to 8·10⁻⁷ of the largest with tiles of 2, by up to 3·10⁻⁶
    with tiles of 4, and so do those of 5×5 filters, which by this method (36 products for 100) go with tiles of 4 only.

    `parameter_vector` and `gradient_vector` (P,) hold all parameters and all gradients, in the order of the layers;
    each layer's `weight.value`, `weight.grad`, … are views of them. So one optimiser step, one snapshot or one norm is
    one operation on one vector.
    Training by SGD is faster while nobody looks at gradients: the first use of `gradient_vector` or of a `grad`
    computes the last step's, and from then on every step fills the vector, until `forget_gradients()`. After a step
    that raised an error they may be NaN.

    The seed and the path determine the first values of all parameters and every dropout mask. Parameters that have been
    given values before, or that somebody has looked at, keep them.

    `task` says what the outputs are, "classification" or "regression": that of the loss that the network was last
    trained with, or what you assign; None for a network that nothing has been said of. `fastbp.predict` goes by it, and
    files keep it.

    >>> from fastbp import Linear, ReLU
    >>> network = Sequential(Linear(4, 3), ReLU(), Linear(3, 2), seed=1)
    >>> network.parameter_vector.shape
    (23,)
    >>> network.forward(np.zeros((5, 4), np.float32)).shape
    (5, 2)
    """

    opens = True

    def __init__(self, *layers: Layer, dtype=np.float32, seed: int = 0, winograd: int = 4, machine: Machine = USUAL):
        super().__init__(*layers)
        self.seed = whole("Sequential: seed", seed, least=0)
        self._winograd = whole("Sequential: winograd", winograd)
        if self._winograd not in (2, 4):
            raise ValueError(f"Sequential: winograd must be 2 or 4, got {winograd!r}")
        self._dtype, self._task = float_dtype(dtype), None
        self._machine = instance("Sequential: machine", machine, Machine)
        self.metadata: dict = {}
        self._take_in()
        for path, layer in self.leaves().items():
            if "key" in layer.state:
                key = np.random.SeedSequence([self.seed, *seeds_of(path), 1])
                layer.state["key"][...] = key.generate_state(1, np.uint64)[0]
        for parameter in self.parameters:
            parameter.forget_draw()
        self._lay_out(self._dtype)

    def _take_in(self) -> None:
        """Make all layers inside this network's own; ValueError, and none is, where one belongs to another."""
        inside = list(self.descendants())
        self._values, self._engines, self._handed_out = None, {}, False
        self._members = frozenset(map(id, inside))
        if len(self._members) < len(inside):
            raise ValueError("Sequential: the same layer stands twice; use copy.deepcopy(layer) for a second one")
        for layer in inside:
            layer.check_free(self)
        for layer in inside:
            layer.join(self)

    def holds(self, layer: Layer) -> bool:
        """Is this layer somewhere in the network?"""
        return id(layer) in self._members

    def join(self, network) -> None:
        """A network that becomes a part of another gives its vectors up, and takes what is the other's."""
        super().join(network)
        self._values, self._engines = None, {}
        self._winograd, self._machine = network._winograd, network._machine

    def _lay_out(self, dtype: np.dtype) -> None:
        """Put all parameters into two new vectors of `dtype`."""
        size = sum(parameter.size for parameter in self.parameters)
        try:
            values, gradients = aligned(size, dtype), Gradients(size, dtype, self.forget_engines)
        except (MemoryError, ValueError):  # of more than memory holds, and of more than any array
            raise MemoryError(f"Sequential: no memory for {size:,} parameters of the layers, {dtype}, twice") from None
        start, places = 0, {}
        for path, layer in self.leaves().items():
            rng = np.random.default_rng([self.seed, *seeds_of(path)])
            for parameter in layer.parameters:
                part = slice(start, start + parameter.size)
                parameter.place(values[part], gradients.array[part], rng, gradients)
                places[parameter], start = start, part.stop
            layer.set_dtype(dtype)
        for layer in self.descendants():
            if isinstance(layer, Sequential):
                layer._dtype = dtype
        self._dtype, self._values, self._gradients, self._places = dtype, values, gradients, places
        self.forget_engines()

    def _owner(self) -> "Sequential":
        """The network whose vectors hold the parameters: this one, or the one that it is part of."""
        owner = self.network or self
        if owner._values is None:  # the network that this one was part of is gone, or it has just been copied
            owner._take_in()
            owner._lay_out(owner._dtype)
        return owner

    def _own(self, what: str) -> "Sequential":
        if self.network is not None:
            hint = "use that network's, or copy.deepcopy for a network of its own"
            raise ValueError(f"{what}: this Sequential is part of another network, which has the parameters: {hint}")
        return self._owner()

    @property
    def dtype(self) -> np.dtype:
        """float32 or float64, of all arrays inside."""
        return self._dtype

    @property
    def parameter_vector(self) -> np.ndarray:
        """All parameters, (P,). Assigning to it copies into it, after a check."""
        vector = self._own("parameter_vector")._values
        if not self._handed_out:  # whoever has the vector may have set what is in it
            self._handed_out = True
            for parameter in self.parameters:
                parameter.keep_draw()
        return vector

    @parameter_vector.setter
    def parameter_vector(self, values) -> None:
        kept = self.parameter_vector
        if values is not kept:  # as in `network.parameter_vector -= step`
            kept[...] = _like("parameter_vector", values, kept)

    @property
    def gradient_vector(self) -> np.ndarray:
        """All gradients, (P,): filled by `backward`, and from now on by every training step (see
        `forget_gradients`)."""
        return self.gradients.ask()

    @property
    def gradients(self) -> Gradients:
        """What holds the gradients, and knows which of them a training step has left open."""
        return self._own("gradients")._gradients

    def forget_gradients(self) -> None:
        """Training steps need not fill the gradients any more, although somebody has looked at them: SGD is faster so.

        Do not use arrays of gradients that you have got before; asking for them again fills them again.
        """
        self.gradients.forget()

    @property
    def winograd(self) -> int:
        """The largest side of Winograd's tiles, as given to the constructor."""
        return self._winograd

    @property
    def machine(self) -> Machine:
        """The sizes by which work is cut into parts (fastbp.engine.Machine); another one gives other last bits."""
        return self._machine

    @machine.setter
    def machine(self, machine: Machine) -> None:
        self._own("machine")._machine = instance("Sequential: machine", machine, Machine)
        for layer in self.descendants():
            if isinstance(layer, Sequential):
                layer._machine = self._machine
        self.forget_engines()

    @property
    def task(self) -> str | None:
        """What the outputs are: "classification", "regression", or None where nobody has said it."""
        return self._task

    @task.setter
    def task(self, task: str | None) -> None:
        if not (task is None or isinstance(task, str) and task in TASKS):
            tasks = ", ".join(TASKS)
            raise ValueError(f"Sequential: task must be one of {tasks}, or None, got {arguments.shown(task)}")
        self._task = task

    def forward(self, x: np.ndarray, training: bool = False, out: np.ndarray | None = None) -> np.ndarray:
        """The last layer's output for a batch x (N, …) of the network's dtype, layer by layer.

        `training` is for dropout and batch norm."""
        return super().forward(self.check(x), training, out)

    def check(self, x: np.ndarray) -> np.ndarray:
        """x, if it is an array (N, …) of the network's dtype; a TypeError or ValueError otherwise."""
        if not isinstance(x, np.ndarray):
            raise TypeError(f"Sequential: expected input to be a NumPy array, got {type(x).__name__}")
        if type(x) is not np.ndarray:
            array("Sequential: input", x)  # no mask is lost
        if x.dtype != self.dtype:
            raise TypeError(
                f"Sequential: expected input of dtype {self.dtype}, got {x.dtype}; "
                f"convert it with x.astype(numpy.{self.dtype})"
            )
        if x.ndim == 0:
            raise ValueError("Sequential: expected input (N, …), got a single number")
        return x

    def engine(self, input_shape: tuple[int, ...]) -> Engine:
        """What computes training steps and predictions for batches (N, *input_shape): print it to see how.

        Built at the first call for a shape and kept for the last few. ValueError where the shape does not fit the
        layers.
        """
        try:
            return self._engines[input_shape]  # as in nearly every training step
        except (KeyError, TypeError):
            pass  # a shape that is new, or none
        of_sample = shape("engine: input_shape", input_shape)
        if of_sample not in self._engines:
            if not self.opens:
                name = type(self).__name__
                raise TypeError(
                    f"{name} has a forward or backward of its own, which training would not use: put it into a layer"
                )
            if len(self._engines) >= ENGINES_KEPT:
                self._engines.pop(next(iter(self._engines)))
            owner = self._owner()
            places = {parameter: owner._places[parameter] for parameter in self.parameters}
            self._engines[of_sample] = Engine(self, of_sample, owner._gradients, places, owner._machine)
        return self._engines[of_sample]

    def forget_engines(self) -> None:
        """Build engines anew from now on; a layer that is changed, or frozen, calls this."""
        self._engines = {}
        for layer in self.descendants():
            if isinstance(layer, Sequential):
                layer._engines = {}

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one sample's output, given one sample's input shape."""
        return super().output_shape(shape("output_shape: input_shape", input_shape))

    def astype(self, dtype) -> "Sequential":
        """Convert all parameters and state to float32 or float64, into new vectors, and return the network."""
        self._refuse_in_network()
        dtype = float_dtype(dtype)
        if dtype != self.dtype:
            self._lay_out(dtype)
        return self

    def costs(self, input_shape: tuple[int, ...], batch: int = 1) -> CostSheet:
        """Parameters, FLOPs and activation memory, of each layer and in all, for `batch` inputs of `input_shape`: see
        fastbp.costs.

        Print it, or let a notebook show it; `to_json()` for other programs.
        """
        return CostSheet(self, input_shape, batch, self.dtype)

    def summary(self, input_shape: tuple[int, ...], batch: int = 1) -> str:
        """The cost sheet as text: a table of layers, output shapes (N, …), numbers of parameters, FLOPs and bytes."""
        return str(self.costs(input_shape, batch))

    # -- copies and files ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and all state (running statistics, dropout's generators) by path and name:
        "3.body.0.weight"."""
        return {name: array.copy() for name, array in self._arrays().items()}

    def _arrays(self) -> dict[str, np.ndarray]:
        state = {f"{path}.{name}": array for path, leaf in self.leaves().items() for name, array in leaf.state.items()}
        return {name: parameter.value for name, parameter in self.named_parameters.items()} | state

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Set all parameters and state from a `state_dict`.

        TypeError or ValueError, and nothing changed, for what is no dictionary, other names or shapes, or what is not
        numbers."""
        if not isinstance(state, Mapping):
            raise TypeError(f"load_state_dict: state must be a dictionary of arrays, got {type(state).__name__}")
        arrays, given = self._arrays(), dict(state)
        if arrays.keys() != given.keys():
            apart = ", ".join(sorted(map(str, arrays.keys() ^ given.keys())))
            raise ValueError(f"load_state_dict: state does not belong to this network: {apart} on one side only")
        taken = {name: _like(f"load_state_dict: {name}", given[name], kept) for name, kept in arrays.items()}
        for name, kept in arrays.items():
            kept[...] = taken[name]

    def save(self, path: str | os.PathLike) -> None:
        """Write the network to one .npz file: layers, parameters, state and `metadata` (anything that JSON can hold).

        The file is written under another name first, so a file of that name is replaced whole or not at all.
        """
        nested = any(isinstance(layer, Container) for layer in self.layers)
        header = {
            "format": FORMAT if nested or self._machine != USUAL else 1,
            "dtype": str(self.dtype),
            "seed": self.seed,
            "winograd": self.winograd,
            "task": self.task,
            "layers": [layer.entry() for layer in self.layers],
            "metadata": self.metadata,
        }
        if frozen := [name for name, parameter in self.named_parameters.items() if not parameter.requires_grad]:
            header["frozen"] = frozen
        if self._machine != USUAL:
            header["machine"] = asdict(self._machine)
        with written_atomically(path) as file:
            write_arrays(file, {"fastbp": np.array(json.dumps(header)), **self._arrays()})

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Sequential":
        """The network that `save` wrote. ValueError for any other, damaged or truncated file; nothing in it is
        executed.

        Layers of your own are found by module and class name: define or import them first. For the module `__main__`, a
        script or a notebook, another module's class of that name will do, if there is just one.
        """
        path = arguments.path("path", path)
        try:
            arrays = read_arrays(path)
            header = json.loads(str(arrays.pop("fastbp")))
        except (ValueError, KeyError, RecursionError):
            raise ValueError(f"{path} is not a network saved by fastbp, or it is damaged") from None
        if not isinstance(header, dict) or header.get("format") not in range(1, FORMAT + 1):
            found = header.get("format") if isinstance(header, dict) else None
            here = f"this fastbp reads networks of formats 1 to {FORMAT}"
            raise ValueError(f"{path}: {here}, the file has {found}; upgrade fastbp")
        try:
            layers = [built(entry) for entry in header["layers"]]
            given = {"dtype": header["dtype"], "seed": header["seed"], "winograd": header.get("winograd", 2)}
            network = cls(*layers, **given, machine=Machine(**header.get("machine", {})))
            network.load_state_dict(arrays)
            for name in header.get("frozen", ()):
                network.named_parameters[name].requires_grad = False
            network.task = header.get("task")
            network.metadata = dict(header["metadata"])
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} can't be rebuilt: {error}") from None
        return network

    def __copy__(self) -> "Sequential":
        raise ValueError("Sequential: a shallow copy would share the parameters: use copy.deepcopy(network)")

    def __getstate__(self) -> dict:
        left_out = ("_values", "_gradients", "_places", "_engines", "_members")
        return {k: v for k, v in super().__getstate__().items() if k not in left_out}

    def __setstate__(self, state: dict) -> None:
        if "_children" not in state:  # of an older version
            state = {**state, "_children": {str(i): layer for i, layer in enumerate(state.pop("layers"))}}
            state |= {"_dtype": state.pop("dtype"), "_network": None, "_cache": None}
        super().__setstate__({"_task": None, "_machine": USUAL, **state})
        self._take_in()

    def __repr__(self) -> str:
        if self.network is not None:
            return f"{type(self).__name__}({', '.join(map(repr, self.layers))})"
        inner = "".join(f"    {layer!r},\n" for layer in self.layers)
        machine = "" if self.machine == USUAL else f", machine={self.machine!r}"
        return f"Sequential(\n{inner}    dtype={self.dtype}, seed={self.seed}, winograd={self.winograd}{machine},\n)"
