"""A small case that fails in the same way: hypothesis draws shapes and values, and shrinks what fails."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..layers.base import Layer
from ..layers.blocks import Container
from ..losses import Loss
from .judge import check
from .problems import Problem, parameter_names, problem_of
from .report import GradientReport

TRIES = 400  # of a search: a number and not a time, so that it finds the same each time
SECONDS = 10.0  # the time after which a search ends all the same
LARGEST = 4  # a size that is drawn: small cases fail as well as large ones, and are quick
VALUES = 9  # elements are whole numbers from −9 to 9


@dataclass(frozen=True)
class SmallestCase:
    """Arguments for which the gradient is wrong: `arguments` by name, `report` of the check, `snippet` that repeats
    it."""

    arguments: dict[str, object]
    report: GradientReport
    snippet: str

    def __str__(self) -> str:
        shapes = ", ".join(f"{n} of shape {a.shape}" for n, a in self.arguments.items() if isinstance(a, np.ndarray))
        lines = [f"smallest failing case: {shapes}"]
        for tensor in self.report.tensors:
            if tensor.problem:
                lines.append(f"there the gradient of {tensor.name}: {tensor.problem}")
            elif tensor.failures:
                at = f" at {tensor.index}" if tensor.index else ""
                values = f"{tensor.analytic:.6g}, finite differences give {tensor.numeric:.6g}"
                lines.append(f"there the gradient of {tensor.name}{at} is {values}")
        return "\n".join([*lines, *("    " + line for line in self.snippet.splitlines())])

    def to_dict(self) -> dict:
        arguments = {n: a.tolist() if isinstance(a, np.ndarray) else repr(a) for n, a in self.arguments.items()}
        return {"arguments": arguments, "snippet": self.snippet}


def smallest_failure(
    thing, inputs: tuple, loss: Loss | None, training: bool, report: GradientReport
) -> SmallestCase | None:
    """A small failing case of `check_gradients(thing, *inputs, …)`, which gave `report`; None where none is found in
    time."""
    if isinstance(thing, Container):
        return None  # its sizes are its layers': check them one by one
    if isinstance(thing, Layer):
        if loss is not None or not all(parameter.requires_grad for parameter in thing.parameters):
            return None
        try:
            start = {"x": np.array(inputs[0]), "layer": thing.config()} | {p.name: p.value for p in thing.parameters}
        except (AttributeError, TypeError, ValueError):
            return None  # a layer of the user's own that doesn't keep its arguments

        def build(arguments: dict) -> Problem:
            layer = _layer(thing, arguments)
            return problem_of(layer, (arguments["x"],), None, training)

        def snippet(arguments: dict) -> str:
            ours = type(thing).__module__.startswith("fastbp.")
            layer = _layer(thing, arguments)
            lines = [
                "import fastbp",
                "import numpy as np",
                f"layer = {'fastbp.' if ours else ''}{layer!r}.astype(np.float64)",
            ]
            lines += [f"layer.{p.name}.value = {code(arguments[p.name])}" for p in layer.parameters]
            lines.append(f"x = {code(arguments['x'])}")
            return "\n".join(
                [*lines, f"print(fastbp.check_gradients(layer, x{'' if training else ', training=False'}))"]
            )

        return search(build, start, snippet, report)
    if isinstance(thing, Loss):
        start = {"scores": np.array(inputs[0]), "targets": np.array(inputs[1])}
    else:
        function = thing[0] if isinstance(thing, (tuple, list)) else thing
        start = dict(zip(parameter_names(function, len(inputs)), inputs, strict=True))
    return search(lambda a: problem_of(thing, tuple(a.values())), start, lambda a: _function_snippet(thing, a), report)


def search(
    build: Callable[[dict], Problem],
    start: dict,
    snippet: Callable[[dict], str],
    report: GradientReport,
    tries: int = TRIES,
) -> SmallestCase | None:
    """The smallest arguments found for which the problem that `build` makes of them fails where `report` did."""
    blamed = _failures(report)

    def fails(arguments: dict) -> GradientReport | None:
        found = check(build(arguments), tolerance=report.tolerance, seed=report.seed)
        return found if not found.passed and _failures(found) & blamed else None

    found = shrink(start, fails, tries)
    return None if found is None else SmallestCase(*found, snippet(found[0]))


def shrink(start: dict, fails: Callable[[dict], object], tries: int = TRIES) -> tuple[dict, object] | None:
    """The smallest arguments found for which `fails` gives something, and what it gives; None if nothing fails.

    Sizes that are equal in `start` are drawn as one (they mostly are one: the batch, the features); floating-point
    arrays get whole numbers, integer arrays numbers of the range they had. Arguments that make `fails` raise anything
    don't count.
    """
    import hypothesis
    from hypothesis import strategies as st

    sizes = sorted({n for a in _arrays(start) for n in a.shape if n > 1} | {n for n in _integers(start) if n > 1})
    deadline, tried = time.monotonic() + SECONDS, 0
    best: list[tuple] = []

    @st.composite
    def cases(draw):
        mapping = {n: draw(st.integers(1, min(n, LARGEST))) for n in sizes}
        return {name: _drawn(draw, st, value, mapping) for name, value in start.items()}

    def found(arguments: dict) -> bool:
        nonlocal tried
        tried += 1
        if tried > tries or time.monotonic() > deadline:
            return False
        try:
            with np.errstate(all="ignore"):
                result = fails(arguments)
        except Exception:  # whatever the functions do with sizes that were not meant
            return False
        if result is None:
            return False
        weight = sum(a.size for a in _arrays(arguments)), float(sum(np.abs(a).sum() for a in _arrays(arguments)))
        if not best or weight <= best[0][0]:
            best[:] = [(weight, arguments, result)]
        return True

    quiet = hypothesis.settings(
        max_examples=200, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink), verbosity=hypothesis.Verbosity.quiet,
    )  # fmt: skip
    try:
        hypothesis.find(cases(), found, settings=quiet)
    except (hypothesis.errors.HypothesisException, hypothesis.errors.HypothesisWarning):
        pass  # nothing found, or time ran out while shrinking: what was found before stands
    return best[0][1:] if best else None


def _failures(report: GradientReport) -> set[tuple[str, bool]]:
    """What failed: tensors, and whether for a reason that isn't their numbers, and properties."""
    tensors = {(t.name, bool(t.problem)) for t in report.tensors if not t.passed}
    return tensors | {(p.name, True) for p in report.properties if not p.passed and not p.warning}


def _arrays(value) -> list[np.ndarray]:
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, dict):
        return [array for part in value.values() for array in _arrays(part)]
    return []


def _integers(value) -> list[int]:
    """The whole numbers among a layer's arguments."""
    config = value.get("layer")
    flat = []
    for part in (config or {}).values():
        flat += part if isinstance(part, list) else [part]
    return [n for n in flat if isinstance(n, int) and not isinstance(n, bool)]


def _drawn(draw, st, value, sizes: dict[int, int]):
    """A value like the given one, with other sizes and numbers."""
    if isinstance(value, dict):  # options, running statistics, a layer's arguments: their own numbers
        return {name: _resized(part, sizes) for name, part in value.items()}
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        return value
    shape = tuple(sizes.get(n, n) for n in value.shape)
    count = int(np.prod(shape))
    if value.dtype.kind == "f":
        numbers = st.integers(-VALUES, VALUES)
    else:
        numbers = st.sampled_from(np.unique(value).tolist() or [0])  # labels −1 and 1 don't become 0
    kind = np.float64 if value.dtype.kind == "f" else value.dtype
    return np.array(draw(st.lists(numbers, min_size=count, max_size=count)), kind).reshape(shape)


def _resized(value, sizes: dict[int, int]):
    if isinstance(value, np.ndarray):
        return np.resize(value, tuple(sizes.get(n, n) for n in value.shape))
    if isinstance(value, list):
        return [_resized(part, sizes) for part in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return sizes.get(value, value)
    return value


def _layer(like: Layer, arguments: dict) -> Layer:
    """A new layer of the same kind with the arguments' sizes and parameters, in the state of the old one."""
    config = {name: tuple(value) if isinstance(value, list) else value for name, value in arguments["layer"].items()}
    layer = type(like)(**config).astype(np.float64)
    for parameter in layer.parameters:
        parameter.value = arguments[parameter.name]
    for name, array in like.state.items():
        layer.state[name] = np.resize(array, layer.state[name].shape)
    return layer


def _function_snippet(thing, arguments: dict) -> str:
    """Python that repeats the check of a pair, a loss function or a loss."""
    lines = ["import fastbp", "import numpy as np"]
    if isinstance(thing, Loss):
        shown = f"fastbp.{thing!r}"
    else:
        functions = thing if isinstance(thing, (tuple, list)) else (thing,)
        usual = ("forward", "backward") if len(functions) == 2 else ("loss",)
        names = [getattr(f, "__name__", "") for f in functions]
        names = [n if n.isidentifier() else other for n, other in zip(names, usual, strict=True)]
        modules = {getattr(f, "__module__", None) for f in functions}
        homes = [
            getattr(sys.modules.get(getattr(f, "__module__", None)), n, None)
            for f, n in zip(functions, names, strict=True)
        ]
        if (
            len(modules) == 1
            and "__main__" not in modules
            and all(h is f for h, f in zip(homes, functions, strict=True))
        ):
            lines.append(f"from {modules.pop()} import {', '.join(names)}")
        shown = f"({', '.join(names)})" if len(names) > 1 else names[0]
    taken = [n if n.isidentifier() else f"input_{n.split()[-1]}" for n in arguments]
    lines += [f"{name} = {code(value)}" for name, value in zip(taken, arguments.values(), strict=True)]
    return "\n".join([*lines, f"print(fastbp.check_gradients({shown}, {', '.join(taken)}))"])


def code(value) -> str:
    """Python that makes the value."""
    if isinstance(value, np.ndarray):
        if not value.size:
            return f"np.zeros({value.shape})"
        text = np.array2string(
            value, separator=", ", threshold=10**6, max_line_width=10**6, floatmode="unique"
        ).replace("\n", "")
        kind = "" if value.dtype.kind in "fi" else f", np.{value.dtype}"
        return f"np.array({' '.join(text.split())}{kind})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {code(v)}" for k, v in value.items()) + "}"
    return repr(value)
