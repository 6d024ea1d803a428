"""A network as it really trains: by the engine, with its fused ops, parts and threads; and the layers one by one beside
it.

What `check` differentiates is the engine's path. The layers one by one are compared with it at the same point, and
where they differ they are checked against finite differences too, and the op that differs is named. A step of SGD is
compared with the gradient, for a step may make its update together with the gradient.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from ..engine.engine import Engine
from ..engine.graph import opens
from ..engine.machine import Machine
from ..engine.ops import Op, Opaque, flat
from ..engine.step import training_step
from ..kernels.activations import activate
from ..layers.base import Layer
from ..layers.blocks import Container
from ..losses import Loss
from ..network import Sequential
from ..optimizers import SGD
from .numeric import EPS, away_from_zero
from .problems import LayerProblem
from .properties import Property
from .report import GradientReport

CLOSE = 1e-8  # of a tensor's largest number: two paths that differ by less agree
OUTPUT = "the output"
AGREE, DESCENDS = "engine and layers agree", "SGD follows the gradient"
IN_PARTS, PREDICTS = "the same in small parts", "prediction as by the layers"
# the smallest parts, as batches and layers are cut where they are large
CUT = Machine(
    part_work=1,
    per_share=1e-9,
    per_weight=1,
    large=10,
    piece_work=1,
    range_work=1,
    few=1,
    run=4,
    tile_rows=4,
    tile_columns=4,
)


class WeightedSum(Loss):
    """L = Σ scores · weights, the loss whose gradient is the weights."""

    def forward(self, scores, targets):
        self._weights = np.asarray(targets)
        return float(np.sum(scores * self._weights))

    def backward(self, out=None):
        return self._weights


class EngineProblem(LayerProblem):
    """A network, or a container in one, as the engine computes a training pass."""

    def __init__(self, thing: Container, x, targets=None, loss: Loss | None = None):
        super().__init__(thing, x, targets, loss)
        self.network = self.thing
        if not isinstance(self.network, Sequential):
            self.network = Sequential(self.thing, dtype=np.float64)
        self.engine = self.network.engine(self.tensors["x"].shape[1:])
        self.tensors |= {name: p.value for name, p in self.parameters.items()}  # which a new network has moved

    def another(self, machine: Machine) -> Engine:
        """Another engine of the network, by which nothing has been computed yet."""
        return Engine(self.network, self.engine.input_shape, self.network.gradients, self.engine.places, machine)

    def forward(self):
        self.put_state_back()
        self.y = self.engine.forward(self.tensors["x"], training=True).copy()
        return self.value()

    def by_parts(self, dout: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray], list[str]]:
        """The value and the gradients of the same network, cut into small parts, and the ops that are wrong there."""
        whole, self.engine = self.engine, self.another(CUT)
        value = self.forward()
        gradients = self.backward(dout)
        blamed = self.blamed(dout)
        self.engine = whole
        return value, gradients, blamed

    def backward(self, dout):
        dx = self.engine.backward(dout if self.loss is None else self.loss.backward()).copy()
        return {"x": dx, **{name: p.grad.copy() for name, p in self.parameters.items()}}

    def held(self):
        return {"the inputs": list(self.tensors.values())}

    def by_layers(self, dout: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The value and the gradients of the same network, layer by layer."""
        value = super().forward()
        return value, super().backward(dout)

    def steps(self, dout: np.ndarray, optimizer: SGD, rates: tuple[float, ...], kept: bool) -> np.ndarray:
        """What steps with these learning rates take off the vector of parameters, which then is as it was.

        `kept`: the steps write gradients and update from them; otherwise they may do both at once.
        """
        network, before = self.network, self.network.parameter_vector.copy()
        network.forget_gradients()
        if kept:
            network.gradients.ask()
        loss, targets = (WeightedSum(), dout) if self.loss is None else (self.loss, self.targets)
        engine = self.another(network.machine)
        batch = engine.batch(len(self.tensors["x"]), training=True)
        for lr in rates:
            self.put_state_back()
            np.copyto(batch.x, self.tensors["x"])
            optimizer.lr = lr
            training_step(batch, loss, optimizer, network)(targets)
        after, network.parameter_vector = network.parameter_vector.copy(), before
        return before - after

    def descended(self, dout: np.ndarray) -> dict[str, np.ndarray]:
        """What a third step of SGD takes off each parameter, if its learning rate is 1 and that of the others is 0."""
        taken = self.steps(dout, SGD(lr=0.0), (0.0, 0.0, 1.0), False)
        ends = np.cumsum([p.size for p in self.network.parameters])
        parts = np.split(taken, ends[:-1]) if len(ends) else []
        of = {id(p): part.reshape(p.shape) for p, part in zip(self.network.parameters, parts, strict=True)}
        return {name: of[id(p)] for name, p in self.parameters.items()}

    def updates_agree(self, dout: np.ndarray) -> bool:
        """Do updates with all settings of SGD have the same bits, whether they keep gradients or not?"""
        settings = {"lr": 1e-3, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2}
        taken = [self.steps(dout, SGD(**settings), (1e-3, 2e-3, 1e-3), kept) for kept in (False, True)]
        return np.array_equal(*taken, equal_nan=True)

    def blamed(self, dout: np.ndarray) -> list[str]:
        """The ops that give something else than their layers one by one, from the same input and the same dout."""
        self.forward()
        gradients = self.backward(dout)
        grads = {id(p): gradients[name] for name, p in self.parameters.items()}
        self.largest = largest_of(gradients)
        found = []
        for op in self.engine.last.schedule.ops:
            differing = [] if isinstance(op, Opaque) else list(self._differences(op, grads))
            if differing:
                found.append(f"{type(op).__name__}({' + '.join(map(repr, op.layers))}): its {' and '.join(differing)}")
        return found

    def _dxs(self, op: Op) -> list[np.ndarray | None]:
        """What an op gives for each dx, as it is cut: made again, for others may have been added to it."""
        schedule = self.engine.last.schedule
        cut, given = schedule.cuts[schedule.ops.index(op)].backward, op.dxs
        made = [None if dx is None else np.zeros_like(dx) for dx in given]
        try:
            op.dxs = made
            if all(dx is None for dx in made):
                return made
            for part in cut.ranges:
                share = {"dx": np.zeros_like(made[0])} if cut.axis == "terms" else {}
                for call in op.calls("backward", cut.axis, part, **share):
                    call()
                if share:
                    made[0] += share["dx"]
        finally:
            op.dxs = given
        return made

    def _differences(self, op: Op, grads: dict[int, np.ndarray]) -> Iterator[str]:
        layers = [copy.deepcopy(layer) for layer in op.layers]
        saved = {id(layer): state for layer, state in self.state}
        for layer, original in zip(layers, op.layers, strict=True):
            for name, values in saved.get(id(original), {}).items():
                layer.state[name][...] = values
        y, inputs = [wire.array for wire in op.inputs], len(op.inputs)
        for layer in layers:
            y = [layer.forward(*y, training=True)]
        (y,), after = y, getattr(op, "activation", None) if len(op.layers) == 1 else None
        if after and np.shares_memory(after.wire.array, op.y):  # made in the op's own pass, over z
            activate(flat(y), flat(y), after.kind, after.numbers)
        if not close(op.y, y):
            yield "output"
        if op.dout is None:
            return
        given = op.dout
        for layer in reversed(layers):
            given = layer.backward(given)
        if not op.passes_dout:
            for dx, right in zip(self._dxs(op), given if inputs > 1 else (given,), strict=True):
                if dx is not None and not close(dx, right, self.largest):
                    yield "dx"
        for layer, original in zip(layers, op.layers, strict=True):
            for parameter, of_op in zip(layer.parameters, original.parameters, strict=True):
                if of_op.requires_grad and not close(grads[id(of_op)], parameter.grad, self.largest):
                    yield f"gradient of {parameter.name}"


def close(a: np.ndarray, b: np.ndarray, largest: float = 0.0) -> bool:
    """Are these equal, to the rounding of two ways to compute them?

    `largest` of the other gradients: one that is 0 but for rounding, a bias before batch norm, has the rounding of
    theirs. What is not finite is left to the finite differences.
    """
    fine = np.isfinite(a) & np.isfinite(b)
    if not fine.any():
        return True
    with np.errstate(all="ignore"):
        scale = max(np.abs(a[fine]).max(), np.abs(b[fine]).max())
        return bool((np.abs(a - b)[fine] <= CLOSE * scale + 1e-12 * (1 + largest)).all())


def differing(gradients: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> list[str]:
    """The names of the gradients that are not close to each other."""
    largest = largest_of(gradients)
    return [name for name, gradient in gradients.items() if not close(gradient, others[name], largest)]


def largest_of(gradients: dict[str, np.ndarray]) -> float:
    """The largest number of them all that is finite."""
    return max((np.abs(g[np.isfinite(g)]).max(initial=0.0) for g in gradients.values()), default=0.0)


def check_network(
    check: Callable, thing: Container, inputs: tuple, loss: Loss | None, training: bool, seed: int
) -> GradientReport:
    """The report on a network's engine path with what its layers say beside it; `check(problem)` makes a report."""
    if not training:
        return check_evaluation(check, thing, inputs, loss)
    try:
        problem = EngineProblem(thing, *inputs, loss=loss)
    except TypeError as error:  # of a layer without output_shape
        report = check(LayerProblem(thing, *inputs, loss=loss))
        report.properties += (Property(AGREE, False, f"training can't use this network: {error}", warning=True),)
        return report
    report = check(problem)
    first = problem.forward()
    dout = np.ones(()) if problem.scalar else away_from_zero(np.random.default_rng(seed), first.shape)
    gradients = problem.backward(dout)
    value, of_layers = problem.by_layers(dout)
    apart = differing(gradients, of_layers)
    if not close(first, value):
        apart.insert(0, OUTPUT)
    report.properties += (Property(AGREE, True),)
    if apart:
        report = with_layers(report, check(LayerProblem(thing, *inputs, loss=loss)), problem.blamed(dout), apart)
    report.properties += (_descends(problem, gradients, dout), _in_parts(problem, first, gradients, dout))
    return report


def _in_parts(problem: EngineProblem, value: np.ndarray, gradients: dict, dout: np.ndarray) -> Property:
    """Does the engine give the same where it cuts the work into small parts, as it does for large batches?"""
    in_parts, cut, blamed = problem.by_parts(dout)
    apart = [OUTPUT] * (not close(value, in_parts)) + differing(gradients, cut)
    told = f"cut into small parts, the engine differs in {', '.join(apart)}" if apart else ""
    told += "".join(f"; {what} is not what the layers give" for what in blamed) if apart else ""
    return Property(IN_PARTS, not apart, told)


def with_layers(engine: GradientReport, layers: GradientReport, blamed: list[str], apart: list[str]) -> GradientReport:
    """The engine's report and what is wrong in that of the layers one by one, where the two give different
    gradients."""
    paths = {
        (True, True): "each is right for what it computes",
        (False, True): "the engine is wrong, the layers one by one are right",
        (True, False): "the engine is right, the layers one by one are wrong",
        (False, False): "both are wrong",
    }
    told = f"the engine and the layers one by one differ in {', '.join(apart)}: {paths[engine.passed, layers.passed]}"
    told += "".join(f"; {what} is not what the layers give" for what in blamed)
    bad = [t for t in layers.tensors if not t.passed]
    engine.tensors += tuple(replace(t, name=f"{t.name}, layers one by one") for t in bad)
    at_kinks = engine.passed and layers.passed and OUTPUT not in apart  # where any value between two slopes is right
    engine.properties = (*engine.properties[:-1], Property(AGREE, False, told, warning=at_kinks))
    return engine


def _descends(problem: EngineProblem, gradients: dict[str, np.ndarray], dout: np.ndarray) -> Property:
    """Does a step of SGD, which may update from gradients that it does not keep, take off the gradient?"""
    taken, off = problem.descended(dout), []
    for name, change in taken.items():
        right, value = gradients[name], problem.parameters[name].value
        with np.errstate(all="ignore"):
            scale = np.abs(right).max(initial=0.0) * CLOSE + 8 * EPS * np.abs(value).max(initial=0.0)
            scale += 1e-12 * (1 + largest_of(gradients))
            if np.isfinite(right).all() and not (np.abs(change - right) <= scale).all():
                off.append(name)
    message = f"a step of SGD moves {', '.join(off)} by something else than the gradient" if off else ""
    if not off and not problem.updates_agree(dout):
        message = "SGD with momentum and weight decay makes another update where it does not keep the gradients"
    return Property(DESCENDS, not message, message)


def check_evaluation(check: Callable, thing: Container, inputs: tuple, loss: Loss | None) -> GradientReport:
    """The report on the layers one by one in evaluation mode, whose outputs a prediction by the engine must have."""
    problem = LayerProblem(thing, *inputs, loss=loss, training=False)
    report = check(problem)
    problem.forward()
    network = problem.thing if isinstance(problem.thing, Sequential) else Sequential(problem.thing, dtype=np.float64)
    x = problem.tensors["x"]
    try:
        agrees = close(network.engine(x.shape[1:]).forward(x), problem.y)
    except TypeError as error:  # of a layer without output_shape
        report.properties += (Property(PREDICTS, False, f"no prediction can be made: {error}", warning=True),)
        return report
    message = "" if agrees else "the engine's prediction differs from that of the layers one by one"
    report.properties += (Property(PREDICTS, agrees, message),)
    return report


def is_opened(thing: Layer) -> bool:
    """Is this a network, or a container that the engine opens?"""
    return isinstance(thing, Container) and opens(thing)
