"""What an assignment is: items with their functions, references, inputs and points. An instructor's own is a Python file that
makes one of these and calls it `assignment`."""

import importlib
import re
import runpy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

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

    `reference(out, **arguments)` gives (expected, backward): the output that is right for the arguments, and a function from dout
    to the gradients, in the item's order (for a loss: a function of nothing that gives the gradients). `out` is the submission's
    output: only references of random functions look at it, to learn which elements were kept; they raise Disagrees if no mask
    explains it. What the function should leave in an option dictionary, the reference writes there.

    `name` says in a few words what is special about it, `accepted` whether the assignment takes it for right, and
    `convert(arguments)` gives the arguments as this convention wants them (labels 0/1 for −1/+1).
    """

    name: str
    reference: Callable
    accepted: bool = True
    convert: Callable[[Arguments], Arguments] | None = None


@dataclass(frozen=True)
class Case:
    """Inputs of one kind: `draw(rng)` gives arguments by name.

    `gradients`: the backward pass is checked here as well (keep these small). `strided`: the arrays are not contiguous. `written`:
    what is compared is not the output but what the function leaves in this argument, an option dictionary, under these keys.
    """

    name: str
    draw: Callable[[np.random.Generator], Arguments]
    gradients: bool = False
    strided: bool = False
    written: tuple[str, tuple[str, ...]] | None = None


@dataclass(frozen=True)
class Item:
    """One graded unit: a pair of functions, or a loss.

    - `forward` its signature, "fc_forward(x, w, b) -> out, cache"; a loss's, "svm_loss(x, y) -> loss, dx", without `backward`
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
        for signature in filter(None, (self.forward, self.backward)):
            if not SIGNATURE.fullmatch(signature):
                raise AssignmentError(f'{self.name}: expected a signature like "f_forward(x, w) -> out, cache", got "{signature}"')
        if not self.conventions or not any(case.gradients for case in self.cases):
            raise AssignmentError(f"{self.name}: needs at least one convention, and one case with gradients=True")
        if not self.points >= 0 or len(self.weights) != 3 or min(self.weights) < 0 or not sum(self.weights) > 0:
            raise AssignmentError(f"{self.name}: points and the weights of (present, forward, backward) can't be negative or all 0")
        if self.visibility not in VISIBILITIES:
            raise AssignmentError(f"{self.name}: visibility is one of {', '.join(VISIBILITIES)}, got {self.visibility!r}")

    @property
    def functions(self) -> dict[str, list[str]]:
        """The functions that a submission must define, with their parameters' names."""
        return dict(parse(signature)[:2] for signature in filter(None, (self.forward, self.backward)))

    def possible(self, part: int) -> float:
        """The points for presence (0), forward (1) or backward (2)."""
        return self.points * self.weights[part] / sum(self.weights)


@dataclass(frozen=True)
class Assignment:
    """Items under a name. `tolerance` of outputs and gradients, relative; `seconds` for each call of a submission's function."""

    name: str
    items: Sequence[Item]
    title: str = ""
    tolerance: float = 1e-6
    seconds: float = 10.0
    source: str = field(default="", compare=False)  # the name or file it was loaded from, for other processes

    def __post_init__(self):
        names = [item.name for item in self.items]
        if not names or len(set(names)) != len(names):
            raise AssignmentError(f"assignment {self.name}: needs items, each with a name of its own")

    @property
    def points(self) -> float:
        return sum(item.points for item in self.items)


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
    if str(name) in BUILT_IN:
        module = importlib.import_module(f".assignments.{str(name).replace('-', '_')}", __package__)
        found = module.assignment
    else:
        path = Path(name)
        if not path.is_file():
            raise AssignmentError(f"no assignment {name}: give one of {', '.join(BUILT_IN)}, or a Python file that defines one")
        try:
            found = runpy.run_path(str(path)).get("assignment")
        except AssignmentError:
            raise
        except Exception as error:
            raise AssignmentError(f"{path} could not be read as an assignment: {type(error).__name__}: {error}") from error
        if not isinstance(found, Assignment):
            raise AssignmentError(f"{path} defines no `assignment` (a fastbp.grading.Assignment)")
    object.__setattr__(found, "source", str(name))
    return found
