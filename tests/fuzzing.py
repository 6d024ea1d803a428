"""The fuzzer: every public callable with one or two of its good arguments replaced by a hostile value.

    faults = fuzz(seed=0, calls=10_000)
    faults = fuzz(seed=0, calls=10_000, only=["layers", "losses.Loss.forward"])

A call is right if it returns, or raises an error that fastbp made: by a `raise` of its own, of a kind that is
documented, with a message that names the argument. It must not warn as NumPy does, change an argument and then fail,
ask for memory without end, or hang. What it returns is not looked at: that is for the other tests.

`doors()` finds the callables: the functions of `fastbp.__all__` and of the ROOMS, the constructors of their classes,
and the public methods and settable attributes of instances. Good arguments are in `GOOD` by the parameter's name, in
`ARGUMENTS` where a callable needs others, and in `INSTANCES` for methods; `missing()` lists the callables that a new
name has left without, so that none is forgotten. Results of a record (a dataclass, a NamedTuple) are made by fastbp and
hold what they are given.
"""

import contextlib
import dataclasses
import dis
import functools
import importlib
import inspect
import os
import pathlib
import random
import re
import resource
import signal
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from fuzz_good import ARGUMENTS, GOOD, INSTANCES
from fuzz_hostile import hostile

import fastbp

ROOMS = (
    "layers", "losses", "optimizers", "initializers", "models", "schedules", "callbacks", "averages", "training",
    "network", "graph", "datasets", "plotting", "sweeps", "gradcheck", "testing", "flops", "costs", "grading", "engine",
    "threads", "files", "profiling",
)  # fmt: skip
INSIDE = {
    "schedules": "training.schedules",
    "callbacks": "training.callbacks",
    "averages": "training.averages",
    "threads": "engine.threads",
}
PACKAGE = str(pathlib.Path(fastbp.__file__).parent) + os.sep
SECONDS = 60  # for a call: the first of its kind may compile a kernel
MEMORY = 4 << 30  # bytes more than the process has at the start; what asks for more fails

# What the engine calls with arguments that it has checked, and what authors of a layer or an operation call with their
# own: these are no doors. on_… and load_state_dict of callbacks are called by `fit`.
ENGINE = re.compile(
    r"""(layers|graph|network)\.\w+\.(expect|buffer|batch_shape|join|set_dtype|connect|compute|multiply_adds)
    |(layers|graph|network)\.\w+\.(cache|parameters|state)\ = |network\.Sequential\.holds |network\.seeds_of
    |layers\.Conv2d\.(geometry|on) |layers\.Parameter\.place |layers\.(Plus|Join)\..* |engine\.(?!Machine$).*
    |costs\.says_costs
    |losses\.\w+\.step_call |losses\.(StepCall|ClassLoss|BinaryLoss)\b.*
    |initializers\.known |optimizers\.\w+\.(begin|update|update_call|kernel)
    |(schedules|callbacks|averages)\.\w+\.(on_\w+|load_state_dict)
    |averages\.(averaged|leave|\w+\.(exchange|put)) |training\.History\.(add|require) |training\.Run\.stop
    |graph\.Op\.(forward|backward|title) |graph\.OpNode.* |gradcheck\.TensorCheck\.(of|explanations)
    |grading\.Item\.possible |files\.write_arrays |threads\.(run|Team\b.*)""",
    re.VERBOSE,
)

# -- what the house calls an argument where it is not the parameter's name ---------------------------------------------

WORDS = {
    "x": ["input"],
    "scores": ["input"],
    "inputs": ["input", "thing"],
    "thing": ["input", "inputs"],
    "input_shape": ["input", "image"],
    "kernel_size": ["kernel", "window"],
    "image": ["input"],
    "layers": ["layer"],
    "labels": ["targets"],
    "targets": ["labels", "label"],
    "sizes": ["in_features", "out_features"],
    "classes": ["out_features"],
    "children": ["layers", "layer"],
    "branches": ["layers", "layer"],
    "named": ["layers", "child"],
    "value": ["array"],
    "dropout": ["rate"],
    "other": ["input", "a", "b"],  # of an operator
    "values": ["vectors", "parameters"],
    "grads": ["vectors"],
    "data": ["x", "targets"],
    "others": ["x"],
    "train": ["x", "targets"],
    "state": ["array"],
}


SLOW = re.compile(
    r"grading\.grade(_all)?|sweeps\.sweep|plotting\..*|graph\.draw|training\.History\.plot|models\.lenet5"
)
# -- doors that start processes or draw: one in twenty of the calls that chance gives them
OPERATORS = {
    f"__{name}__"
    for name in (
        "call", "getitem", "setitem", "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "rpow",
        "matmul", "rmatmul", "lt", "le", "gt", "ge", "eq", "ne",
    )
}  # fmt: skip
ENDLESS = {"epochs": 3, "inputs": 10_000}  # a larger value, a longer array, is no fault and takes as long as it says


# -- doors -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Door:
    """A public callable. `prepare()` gives the function and fresh good arguments by the parameters' names."""

    name: str
    prepare: Callable[[], tuple[Callable, dict]]
    parameters: tuple[str, ...]

    @property
    def room(self) -> str:
        return self.name.partition(".")[0]

    def __repr__(self) -> str:
        return self.name


def public(module) -> dict[str, object]:
    names = getattr(module, "__all__", None)
    if names is not None:
        return {name: getattr(module, name) for name in names}
    kinds = (types.FunctionType, type)
    return {
        n: v
        for n, v in vars(module).items()
        if n[0] != "_" and isinstance(v, kinds) and v.__module__ == module.__name__
    }


def is_record(kind) -> bool:
    return isinstance(kind, type) and (dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"))


@functools.cache
def _found() -> tuple[list[Door], list[str]]:
    """The doors, and the names of those without good arguments."""
    doors, without = [], []

    def add(name: str, function: Callable, instance: Callable | None = None) -> None:
        """`function` of the instance that `instance()` gives, with arguments of its own, or of nothing."""
        if ENGINE.fullmatch(name):
            return
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):  # an exception's constructor
            return
        names = [n for n in parameters if not (instance is not None and n == "self")]
        if not names:
            return
        known = {**GOOD, **(instance()[1] if instance is not None else {}), **ARGUMENTS.get(name, {})}
        for n in names:
            required = parameters[n].default is inspect.Parameter.empty
            required &= parameters[n].kind is not inspect.Parameter.VAR_KEYWORD
            if required and n not in known and name not in RECORDS:
                without.append(f"{name}: {n}")
                return

        def prepare():
            made, own = instance() if instance is not None else (None, {})
            good = {**GOOD, **own, **ARGUMENTS.get(name, {})}
            arguments = {n: good[n]() if n in good else default(parameters[n]) for n in names}
            called = getattr(made, name.rpartition(".")[2]) if instance is not None else function
            return functools.partial(call, called, parameters), arguments

        doors.append(Door(name, prepare, tuple(names)))

    def add_attribute(name: str, instance: Callable, attribute: str) -> None:
        """Setting an attribute, and using what it was set on."""
        if ENGINE.fullmatch(name):
            return

        def prepare():
            made, own = instance()

            def assign(**arguments):
                setattr(made, attribute, arguments[attribute])
                use(made, own)

            return assign, {attribute: own[attribute]() if attribute in own else getattr(made, attribute)}

        doors.append(Door(name, prepare, (attribute,)))

    seen = set()
    for room in ROOMS:
        for name, value in public(importlib.import_module(f"fastbp.{INSIDE.get(room, room)}")).items():
            if id(value) in seen or isinstance(value, types.ModuleType):
                continue
            seen.add(id(value))
            full = f"{room}.{name}"
            if not isinstance(value, type):
                add(full, value)
                continue
            if issubclass(value, Exception):
                continue
            if is_record(value):
                RECORDS.add(full)
            if full not in ("graph.GraphLayer", "graph.Op"):
                add(full, value)
            methods, attributes = methods_of(value), attributes_of(value)
            if full not in INSTANCES:
                wanted = [
                    f"{full}.{m}" for m in methods if takes_arguments(value, m) and not ENGINE.fullmatch(f"{full}.{m}")
                ]
                without.extend(f"{w}: an instance" for w in wanted if not (is_record(value) and full not in ARGUMENTS))
                continue
            for method in methods:
                add(f"{full}.{method}", getattr(value, method), INSTANCES[full])
            for attribute in attributes:
                add_attribute(f"{full}.{attribute} =", INSTANCES[full], attribute)
    for name in fastbp.__all__:  # all of them stand in one of the rooms
        value = getattr(fastbp, name)
        if id(value) not in seen and not isinstance(value, types.ModuleType) and name != "load":
            without.append(f"fastbp.{name}: in no room")
    return doors, without


RECORDS: set[str] = set()


def doors() -> list[Door]:
    return _found()[0]


def missing() -> list[str]:
    return _found()[1]


def methods_of(kind: type) -> list[str]:
    found = []
    for name in dir(kind):
        value = inspect.getattr_static(kind, name)
        value = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        own = isinstance(value, types.FunctionType) and value.__module__.startswith("fastbp")
        if own and (name[0] != "_" or name in OPERATORS) and not (name == "__eq__" and is_record(kind)):
            found.append(name)
    return found


def takes_arguments(kind: type, method: str) -> bool:
    return any(n != "self" for n in inspect.signature(getattr(kind, method)).parameters)


def attributes_of(kind: type) -> list[str]:
    """Properties that can be set, and what layers, losses and optimisers keep of their constructors' arguments."""
    properties = {n: p for n in dir(kind) if isinstance(p := inspect.getattr_static(kind, n), property)}
    settable = [n for n, p in properties.items() if p.fset]
    if issubclass(kind, (fastbp.Layer, fastbp.Loss, fastbp.Optimizer)):
        settable += [n for n in inspect.signature(kind).parameters if n not in properties and n != "named"]
    return settable


def use(made, own: dict) -> None:
    """What an attribute is for."""
    if isinstance(made, fastbp.Layer):
        made.backward(np.ones_like(made.forward(own["x"](), training=True)))
    elif isinstance(made, fastbp.Loss):
        made.forward(own["scores"](), own["targets"]())
        made.backward()
    elif isinstance(made, fastbp.Optimizer) and type(made) is not fastbp.Optimizer:
        made.step(own["values"](), own["grads"]())


def default(parameter: inspect.Parameter):
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
        return []
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        return {}
    return None if parameter.default is inspect.Parameter.empty else parameter.default


def call(function: Callable, parameters, /, **arguments):
    """The function with arguments by name, where a starred one is a list and a double-starred one a dictionary."""
    positional, named = [], {}
    for name, value in arguments.items():
        kind = parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            positional.extend(value)
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        elif kind is inspect.Parameter.KEYWORD_ONLY:
            named[name] = value
        else:
            positional.append(value)
    result = function(*positional, **named)
    if isinstance(result, Iterator):
        for _, _ in zip(range(3), result, strict=False):  # a generator begins when it is asked
            pass
    elif isinstance(result, contextlib._GeneratorContextManager):  # written_atomically, no_grad
        with result:
            pass
    return result


# -- a call and its verdict --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """What was wrong with a call: `again` calls it once more, for a debugger."""

    door: str
    changed: tuple[str, ...]
    what: str
    seed: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.door}({', '.join(self.changed)}): {self.what}   [again{self.seed}]"


class Hang(BaseException):
    """A call that did not end in time."""


UNNAMED = "does not name the argument"
DOCUMENTED = (TypeError, ValueError, RuntimeError, OSError, MemoryError, AttributeError, AssertionError)
# -- RuntimeError for calls in the wrong order, AttributeError for an attribute that can't be set, AssertionError as
# GradientError; errors of their own (DataError, AssignmentError, SweepError, Disagrees) belong to a module of fastbp


def attempt(door: Door, chance: random.Random, seed: tuple[int, int] = (0, 0)) -> Fault | None:
    """Call the door once with hostile arguments that `chance` draws."""
    function, arguments = door.prepare()
    count = min(len(door.parameters), 1 + (chance.random() < 0.2))
    changed, shown = chance.sample(door.parameters, count), []
    for name in changed:
        good = arguments[name]
        if isinstance(good, list) and name in ("layers", "inputs", "others", "shape") and not good:
            good = [None]
        label, value = hostile(chance, good)
        if name in ENDLESS and is_more(value, ENDLESS[name]):
            label, value = "'3'", "3"
        if is_starred(function, name):  # a starred argument is a list or a dictionary in itself
            value = value if isinstance(value, list) else [value]
        elif is_starred(function, name, 2):
            value = value if isinstance(value, dict) and all(isinstance(k, str) for k in value) else {}
        arguments[name] = value
        shown.append(f"{name}={label}")
    words = [*changed, *(key for name in changed if is_starred(function, name, 2) for key in arguments[name])]
    words += [text for name in changed for text in texts_in(arguments[name])]  # a file's own name says which it is
    what = judge(function, arguments, words, door)
    return None if what is None else Fault(door.name, tuple(shown), what, seed)


def texts_in(value) -> list[str]:
    """The texts and paths of an argument."""
    if isinstance(value, (list, tuple)) and value and value[0] is not value:
        return [text for each in value[:5] for text in texts_in(each)]
    return [str(value), os.path.expanduser(value)] if isinstance(value, (str, pathlib.PurePath)) else []


def is_more(value, limit: int) -> bool:
    """Is this more than so many, or an array of more elements, or one of several that are?"""
    if isinstance(value, list):
        return any(is_more(each, limit) for each in value if each is not value)
    try:
        return value.size > limit if isinstance(value, np.ndarray) else bool(value > limit)
    except Exception:
        return False


def is_starred(function, name: str, stars: int = 1) -> bool:
    parameters = function.args[1] if isinstance(function, functools.partial) else {}
    kind = inspect.Parameter.VAR_POSITIONAL if stars == 1 else inspect.Parameter.VAR_KEYWORD
    return name in parameters and parameters[name].kind is kind


def judge(function: Callable, arguments: dict, words: list[str], door: Door) -> str | None:
    """Make the call; what is wrong with how it ends, or None. An error has to have one of the words."""
    before = snapshot(arguments)
    with warnings.catch_warnings(record=True) as told, timed():
        warnings.simplefilter("always")
        try:
            function(**arguments)
            error = None
        except Hang:
            return f"did not end in {SECONDS} s"
        except Exception as raised:
            error = raised
    for warning in told:
        if warning.category is not UserWarning and not issubclass(warning.category, ResourceWarning):
            return f"warned: {warning.category.__name__}: {first_line(warning.message)}"
    if error is None:
        return None
    what = fault_of(error, words)
    if what == UNNAMED and first_line(error) == first_line(error_of(door)):
        return None  # a base class without a formula, say, whatever the arguments
    if what is not None:
        return f"{what}: {type(error).__name__}: {first_line(error)}"
    if different := [name for name, (old, now) in compared(before, arguments) if old != now]:
        return f"changed {', '.join(different)} and failed: {type(error).__name__}: {first_line(error)}"
    return None


def error_of(door: Door) -> Exception | None:
    """What the door says to good arguments."""
    function, arguments = door.prepare()
    try:
        function(**arguments)
    except Exception as error:
        return error


def first_line(error) -> str:
    try:
        return str(error).partition("\n")[0][:200]
    except Exception:
        return "a message that can't be shown"


def fault_of(error: Exception, words: list[str]) -> str | None:
    """What is wrong with an error, or None."""
    try:
        message = str(error)
    except Exception:
        return "an error without a message"
    ours = type(error).__module__.partition(".")[0] == "fastbp"
    if isinstance(error, OSError) and type(error).__module__ == "builtins" and error.filename is not None:
        return None  # the system's own, about a file that it names
    if not is_raised_by_fastbp(error):
        return "a raw error"
    if not ours and type(error) not in (
        *DOCUMENTED,
        FileNotFoundError,
        FileExistsError,
        IsADirectoryError,
        NotADirectoryError,
    ):
        return "an undocumented kind"
    if isinstance(error, (RuntimeError, fastbp.GradientError)):  # the order of calls; what assert_gradients is for
        return None
    if re.search(r"\bOwn(Layer|Loss)\b", message):
        return None  # about a class of the user's own, which lacks a method
    for name in words:
        for word in (name, *WORDS.get(name, [])):
            if word and re.search(rf"(?<![^\W_]){re.escape(word)}(?![^\W_])", message, re.IGNORECASE):
                return None
    return UNNAMED


def is_raised_by_fastbp(error: Exception) -> bool:
    """Whether the innermost frame is fastbp's and stands at a `raise`; a call with arguments that the signature has not
    is the interpreter's to refuse, and stands in the caller's frame."""
    traceback = error.__traceback__
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    of_the_call = code.co_filename == __file__ and code.co_name == "call"
    if of_the_call and isinstance(error, TypeError) and "argument" in str(error):
        return True
    return code.co_filename.startswith(PACKAGE) and dis.opname[code.co_code[traceback.tb_lasti]] == "RAISE_VARARGS"


def snapshot(arguments: dict) -> dict[str, list]:
    return {name: contents(value) for name, value in arguments.items()}


def compared(before: dict, arguments: dict) -> Iterator[tuple[str, tuple]]:
    for name, old in before.items():
        yield name, (old, contents(arguments[name]))


def contents(value, depth: int = 0) -> object:
    """What can be compared of an argument: the bytes of arrays, parameters, state and settings."""
    if isinstance(value, np.ndarray):
        small = value.nbytes < 1 << 20 and value.dtype.kind != "O"
        return value.shape, str(value.dtype), value.tobytes() if small else None
    if isinstance(value, fastbp.Sequential):
        return value.parameter_vector.tobytes()
    if isinstance(value, fastbp.Layer):
        return [contents(p.value, depth + 1) for p in value.parameters]
    if isinstance(value, fastbp.Optimizer):
        return value.steps, [contents(v, depth + 1) for v in value.state.values()]
    if isinstance(value, (list, tuple)) and depth < 3:
        return [contents(v, depth + 1) for v in value]
    if isinstance(value, dict) and depth < 3:
        return [(id(k), contents(v, depth + 1)) for k, v in value.items()]
    return id(value)


@contextlib.contextmanager
def timed():
    """Ends what does not end; only the main thread can be interrupted."""

    def end(number, frame):
        raise Hang

    try:
        before = signal.signal(signal.SIGALRM, end)
    except ValueError:  # not the main thread
        yield
        return
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def guarded():
    """A folder of its own to write into, no network, no data sets, limited memory, nothing on standard error."""
    from fastbp.datasets import download

    def closed(url):
        raise OSError(101, "the fuzzer has no network", url)

    threads, directory, opened = fastbp.get_num_threads(), os.getcwd(), download.open_url
    environment = {name: os.environ.pop(name, None) for name in ("FASTBP_DATA", "XDG_CACHE_HOME", "HOME")}
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as sink:
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        os.environ["XDG_CACHE_HOME"] = os.environ["HOME"] = folder
        os.chdir(folder)
        pathlib.Path("submission.py").write_text("def f(x):\n    return x, x\n")
        download.open_url = closed
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
        try:
            with contextlib.redirect_stderr(sink), contextlib.redirect_stdout(sink):
                yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
            download.open_url = opened
            os.chdir(directory)
            fastbp.set_num_threads(threads)
            for name, value in environment.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def chosen(only: Iterable[str] | None) -> list[Door]:
    """The doors of these rooms, or with these names or beginnings of names; all of them without."""
    only = None if only is None else tuple(only)
    found = [d for d in doors() if only is None or any(d.room == o or d.name.startswith(o) for o in only)]
    if not found:
        raise ValueError(f"fuzz: only names no door: {only}")
    return found


def fuzz(
    seed: int, calls: int, only: Iterable[str] | None = None, stop: Callable[[], bool] = lambda: False
) -> list[Fault]:
    """Make so many calls, drawn with the seed; the faults. `stop()` is asked before each call."""
    found, faults = chosen(only), []
    with guarded():
        for number in range(calls):
            if stop():
                break
            faults += filter(None, [_draw(found, seed, number)])
    return faults


def _draw(found: list[Door], seed: int, number: int) -> Fault | None:
    chance = random.Random(f"{seed} {number}")
    door = chance.choice(found)
    while SLOW.fullmatch(door.name) and len(found) > 5 and chance.random() < 0.95:
        door = chance.choice(found)
    return attempt(door, chance, (seed, number))


def again(seed: int, number: int, only: Iterable[str] | None = None) -> Fault | None:
    """One call of `fuzz` once more."""
    with guarded():
        return _draw(chosen(only), seed, number)


if __name__ == "__main__":
    rooms = sys.argv[3:] or None
    found = fuzz(int(sys.argv[1]), int(sys.argv[2]), rooms)
    for fault in found:
        sys.stdout.write(f"{fault}\n")
    sys.stderr.write(f"{len(found)} faults in {sys.argv[2]} calls of {len(chosen(rooms))} doors\n")
