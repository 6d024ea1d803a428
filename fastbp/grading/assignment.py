"""What an assignment is: items with their functions, references, inputs and points.

An instructor's own is a Python file that makes one of these and calls it `assignment`.
"""

import importlib
import os
import re
import runpy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..arguments import flag, function, instance, number, path, shown, text

BUILT_IN = ("eecs598-hw1", "cs231n-a2")
VISIBILITIES = ("visible", "hidden", "after_due_date", "after_published")
Arguments = dict[str, object]  # a function's arguments by name


class AssignmentError(ValueError):
    """An assignment that can't be found, read or used; the message says which and why."""


class Disagrees(Exception):
    """Raised by a reference that can't say what the output should be, only why the one given is wrong."""


@dataclass(frozen=True)
class Convention:
    """One way to define an item's function.

    `reference(out, **arguments)` gives (expected, backward): the output that is right for the arguments, and a
    function from dout to the gradients, in the item's order (for a loss: a function of nothing that gives the
    gradients). `out` is the submission's output: only references of random functions look at it, to learn which
    elements were kept; they raise Disagrees if no mask explains it. What the function should leave in an option
    dictionary, the reference writes there.

    `name` says in a few words what is special about it, `accepted` whether the assignment takes it for right, and
    `convert(arguments)` gives the arguments as this convention wants them (labels 0/1 for −1/+1).
    """

    name: str
    reference: Callable
    accepted: bool = True
    convert: Callable[[Arguments], Arguments] | None = None

    def __post_init__(self):
        text("Convention: name", self.name)
        function(f"{self.name}: reference", self.reference)
        flag(f"{self.name}: accepted", self.accepted)
        if self.convert is not None:
            function(f"{self.name}: convert", self.convert)


@dataclass(frozen=True)
class Case:
    """Inputs of one kind: `draw(rng)` gives arguments by name.

    `gradients`: the backward pass is checked here as well (keep these small). `strided`: the arrays are not
    contiguous. `written`: what is compared is not the output but what the function leaves in this argument, an
    option dictionary, under these keys.
    """

    name: str
    draw: Callable[[np.random.Generator], Arguments]
    gradients: bool = False
    strided: bool = False
    written: tuple[str, tuple[str, ...]] | None = None

    def __post_init__(self):
        text("Case: name", self.name)
        function(f"{self.name}: draw", self.draw)
        flag(f"{self.name}: gradients", self.gradients)
        flag(f"{self.name}: strided", self.strided)
        if self.written is not None:
            if not isinstance(self.written, (tuple, list)) or len(self.written) != 2:
                wanted = "written must be an argument's name and keys of it"
                raise TypeError(f"{self.name}: {wanted}, got {shown(self.written)}")
            text(f"{self.name}: written: the argument", self.written[0])
            _all_of(f"{self.name}: written: the keys", self.written[1], str)


@dataclass(frozen=True)
class Item:
    """One graded unit: a pair of functions, or a loss.

    - `forward` its signature, "fc_forward(x, w, b) -> out, cache"; a loss's, without `backward`, is "svm_loss(x, y) ->
      loss, dx"
    - `backward` "fc_backward(dout, cache) -> dx, dw, db"; `gradients` the arguments that these belong to, in order
    - `conventions` the first is the usual one; `cases` how inputs are drawn
    - `points`, shared out as `weights` for (present, forward, backward)
    - `visibility` as on Gradescope: visible, hidden, after_due_date, after_published
    - `shows` whether feedback may show the expected output beside the submission's, on the smallest failing input
    - `hint` a line for feedback when the item fails
    """

    name: str
    forward: str
    gradients: tuple[str, ...]
    conventions: Sequence[Convention]
    cases: Sequence[Case]
    backward: str | None = None
    points: float = 10.0
    weights: tuple[float, float, float] = (0.1, 0.4, 0.5)
    visibility: str = "visible"
    shows: bool = True
    hint: str = ""

    def __post_init__(self):
        text("Item: name", self.name)
        for name in ("forward", "backward"):
            signature = getattr(self, name)
            if name == "backward" and signature is None:
                continue
            if not SIGNATURE.fullmatch(text(f"{self.name}: {name}", signature)):
                wanted = 'expected a signature like "f_forward(x, w) -> out, cache"'
                raise AssignmentError(f"{self.name}: {name}: {wanted}, got {shown(signature)}")
        _all_of(f"{self.name}: gradients", self.gradients, str)
        _all_of(f"{self.name}: conventions", self.conventions, Convention)
        _all_of(f"{self.name}: cases", self.cases, Case)
        number(f"{self.name}: points", self.points)
        for weight in _all_of(f"{self.name}: weights", self.weights, object):
            number(f"{self.name}: weights: each", weight)
        flag(f"{self.name}: shows", self.shows)
        text(f"{self.name}: hint", self.hint)
        if not self.conventions or not any(case.gradients for case in self.cases):
            got = f"got conventions {shown(self.conventions)} and cases {shown(self.cases)}"
            raise AssignmentError(
                f"{self.name}: needs at least one convention, and one case with gradients=True: {got}"
            )
        if not self.points >= 0 or len(self.weights) != 3 or min(self.weights) < 0 or not sum(self.weights) > 0:
            wrong = "points and the weights of (present, forward, backward) can't be negative or all 0"
            raise AssignmentError(f"{self.name}: {wrong}")
        if text(f"{self.name}: visibility", self.visibility) not in VISIBILITIES:
            wanted = f"visibility is one of {', '.join(VISIBILITIES)}"
            raise AssignmentError(f"{self.name}: {wanted}, got {shown(self.visibility)}")

    @property
    def functions(self) -> dict[str, list[str]]:
        """The functions that a submission must define, with their parameters' names."""
        return dict(parse(signature)[:2] for signature in filter(None, (self.forward, self.backward)))

    def possible(self, part: int) -> float:
        """The points for presence (0), forward (1) or backward (2)."""
        return self.points * self.weights[part] / sum(self.weights)


@dataclass(frozen=True)
class Assignment:
    """Items under a name. `tolerance` is that of outputs and gradients, relative; `seconds` are for each call."""

    name: str
    items: Sequence[Item]
    title: str = ""
    tolerance: float = 1e-6
    seconds: float = 10.0
    source: str = field(default="", compare=False)  # the name or file it was loaded from, for other processes

    def __post_init__(self):
        text("Assignment: name", self.name)
        names = [item.name for item in _all_of(f"assignment {self.name}: items", self.items, Item)]
        if not names or len(set(names)) != len(names):
            raise AssignmentError(f"assignment {self.name}: needs items, each with a name of its own")
        text(f"assignment {self.name}: title", self.title)
        number(f"assignment {self.name}: tolerance", self.tolerance, above=0)
        number(f"assignment {self.name}: seconds", self.seconds, above=0)
        text(f"assignment {self.name}: source", self.source)

    @property
    def points(self) -> float:
        return sum(item.points for item in self.items)


def _all_of(what: str, values, kind: type) -> Sequence:
    """`values`, if it is a list or tuple of such things."""
    for value in instance(what, values, (list, tuple)):
        instance(f"{what}: each", value, kind)
    return values


SIGNATURE = re.compile(r"\s*(\w+)\s*\(([\w\s,]*)\)\s*(?:->\s*(.*))?")


def parse(signature: str) -> tuple[str, list[str], str]:
    """The name, the parameters' names and what is returned.

    >>> parse("fc_forward(x, w, b) -> out, cache")
    ('fc_forward', ['x', 'w', 'b'], 'out, cache')
    """
    name, parameters, returned = SIGNATURE.fullmatch(signature).groups()
    return name, [p.strip() for p in parameters.split(",") if p.strip()], returned or ""


def load_assignment(name: str | Path) -> Assignment:
    """A built-in assignment by name, or the `assignment` that a Python file defines. AssignmentError if there is none.

    The file is the instructor's: it is run here, in the grader's own process.
    """
    name = path("load_assignment: name", name)
    if name in BUILT_IN:
        module = importlib.import_module(f".assignments.{name.replace('-', '_')}", __package__)
        found = module.assignment
    else:
        if not os.path.isfile(name):
            known = ", ".join(BUILT_IN)
            wanted = f"give one of {known}, or the name of a Python file that defines one"
            raise AssignmentError(f"no assignment {name}: {wanted}")
        try:
            found = runpy.run_path(name).get("assignment")
        except AssignmentError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise AssignmentError(f"{name} could not be read as an assignment: {reason}") from error
        if not isinstance(found, Assignment):
            raise AssignmentError(f"{name} defines no `assignment` (a fastbp.grading.Assignment)")
    object.__setattr__(found, "source", name)
    return found
