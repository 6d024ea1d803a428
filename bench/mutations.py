"""Small faults planted in a function's source, one at a time: `mutants(source, name)`.

Each is the function with one expression or statement replaced. The kinds:

sign            a minus put in or taken out            constant    a number by another
operator        + − * / @ ** by another                axis        another axis, one fewer, or keepdims left out
term            one side of + or − left out            slice       a bound moved by one, a step left out
factor          one side of * / @ ** left out          range       a loop's first or last pass left out
comparison      another comparison                     transpose   .T left out, axes exchanged
mask            a comparison turned into its opposite  reshape     left out
operand         a name by another name in scope        reduction   sum, mean, max, … by another or left out
accumulation    += by = or -=, and so on; left out     function    exp, sqrt, … left out
order           results or parts of the cache          branch      the condition of a branch turned into its opposite
                exchanged
"""

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

KINDS = (
    "sign", "operator", "term", "factor", "constant", "axis", "slice", "range", "comparison", "mask", "operand",
    "transpose", "reshape", "reduction", "accumulation", "function", "order", "branch",
)  # fmt: skip
OPERATORS = {
    ast.Add: (ast.Sub, ast.Mult),
    ast.Sub: (ast.Add, ast.Mult),
    ast.Mult: (ast.Div, ast.Add),
    ast.Div: (ast.Mult, ast.Sub),
    ast.MatMult: (ast.Mult,),
    ast.Pow: (ast.Mult, ast.Add),
    ast.FloorDiv: (ast.Mult, ast.Mod),
    ast.Mod: (ast.Mult, ast.FloorDiv),
}
COMPARISONS = {ast.Gt: (ast.GtE, ast.Lt), ast.Lt: (ast.LtE, ast.Gt), ast.Eq: (ast.GtE, ast.LtE)}
OPPOSITES = {ast.Gt: ast.LtE, ast.Lt: ast.GtE, ast.Eq: ast.NotEq, ast.Is: ast.IsNot}
REDUCTIONS = {"sum": ("mean", "max"), "mean": ("sum", "max"), "max": ("min", "sum"), "argmax": ("argmin",)}
FUNCTIONS = ("exp", "log", "sqrt", "logaddexp", "maximum")
ARRAY_SWAPS = 2  # names tried in the place of an array's; one for the others


@dataclass(frozen=True)
class Mutant:
    kind: str
    line: int  # of the file
    place: str  # the name that the statement assigns to
    before: str  # the statement, or the first line of a loop or branch
    after: str
    source: str  # of the whole mutated function
    indexing: bool = False  # it changes which elements are meant, or how often a loop runs

    def __str__(self) -> str:
        return f"{self.before}  ->  {self.after}"


def mutants(source: str, name: str, local_values: dict, after: str | None = None) -> list[Mutant]:
    """All mutants of a function in a module's source, without duplicates.

    `local_values` are the values of its local names as it returns: names are swapped for those of like values, the most
    alike first. `after`: only statements below the one that assigns to this name (a loss function's gradient part).
    """
    (function,) = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name)
    if ast.get_docstring(function):
        del function.body[0]
    first = 0
    if after is not None:
        first = max(k for k, statement in enumerate(function.body) if after in _assigned(statement)) + 1
    original, found = ast.unparse(function), {}
    for whole, kind, place, replacement, indexing in _replacements(function, first, local_values):
        statement, unchanged = whole.get(), place.get()
        before = _head(statement)
        place.set(replacement)
        mutated, now = ast.unparse(ast.fix_missing_locations(function)), _head(whole.get())
        place.set(unchanged)
        if mutated != original and mutated not in found:
            names = sorted(_assigned(statement))
            whole_numbers = bool(names) and all(isinstance(local_values.get(name), int) for name in names)
            tensors, exact = ", ".join(names), indexing or whole_numbers
            found[mutated] = Mutant(kind, statement.lineno, tensors, before, now, mutated, exact)
    assert ast.unparse(function) == original
    return list(found.values())


def locals_of(function: Callable, *arguments) -> dict:
    """A function's local values as it returns."""
    found = {}

    def profile(frame, event, _):
        if event == "return" and frame.f_code is function.__code__:
            found.update(frame.f_locals)

    sys.setprofile(profile)
    try:
        function(*arguments)
    finally:
        sys.setprofile(None)
    return found


# -- places in a tree --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a node hangs: a field of its parent, or an item of a list there."""

    parent: ast.AST
    field: str
    index: int | None = None

    def get(self) -> ast.AST | None:
        value = getattr(self.parent, self.field)
        return value if self.index is None else value[self.index]

    def set(self, node: ast.AST | None) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


def _places(node: ast.AST) -> Iterator[Place]:
    for field, value in ast.iter_fields(node):
        if isinstance(value, list):
            yield from (Place(node, field, index) for index, item in enumerate(value) if isinstance(item, ast.AST))
        elif isinstance(value, ast.AST):
            yield Place(node, field)


def _head(statement: ast.stmt) -> str:
    return ast.unparse(ast.fix_missing_locations(statement)).split("\n")[0]


def _assigned(statement: ast.stmt) -> set[str]:
    """The names that a statement writes to, whole or in part."""
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    names = set()
    for target in targets:
        for node in target.elts if isinstance(target, ast.Tuple) else [target]:
            while isinstance(node, ast.Subscript):
                node = node.value
            if isinstance(node, ast.Name):
                names.add(node.id)
    return names


# -- what is put where -------------------------------------------------------------------------------------------------

# the statement's place, kind, place, replacement, indexing
Found = Iterator[tuple[Place, str, Place, ast.AST | None, bool]]


def _replacements(function: ast.FunctionDef, first: int, values: dict) -> Found:
    known = {argument.arg for argument in function.args.args}
    for index, statement in enumerate(function.body):
        if index >= first:
            yield from _in_statement(Place(function, "body", index), known, values)
        known |= _stored(statement)


def _stored(node: ast.AST) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)}


def _in_statement(place: Place, known: set[str], values: dict) -> Found:
    statement = place.get()
    if isinstance(statement, (ast.For, ast.If)):
        head = Place(statement, "iter" if isinstance(statement, ast.For) else "test")
        for kind, where, replacement, _ in _in_expression(head, "", known, values):
            is_branch = isinstance(statement, ast.If)
            yield place, "branch" if is_branch else kind, where, replacement, not is_branch
        known = known | (_stored(statement.target) if isinstance(statement, ast.For) else set())
        for field in ("body", "orelse"):
            for index, inner in enumerate(getattr(statement, field)):
                yield from _in_statement(Place(statement, field, index), known, values)
                known = known | _stored(inner)
        return
    if isinstance(statement, ast.AugAssign):
        opposite = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Div: ast.Mult, ast.Mult: ast.Div}[type(statement.op)]
        yield place, "accumulation", place, ast.AugAssign(statement.target, opposite(), statement.value), False
        yield place, "accumulation", place, ast.Assign([statement.target], statement.value), False
    target = statement.targets[0] if isinstance(statement, ast.Assign) else None
    if isinstance(statement, ast.AugAssign) or isinstance(target, ast.Subscript):
        yield place, "accumulation", place, ast.Pass(), False
    for where in _places(statement):
        if where.field == "value":
            yield from ((place, *change, False) for change in _whole_value(statement, where))
        if where.field != "op":
            yield from ((place, *change) for change in _in_expression(where, "", known, values))


def _whole_value(statement: ast.stmt, place: Place):
    """Minus what is assigned or returned; results, or parts of what is unpacked, in another order."""
    value = place.get()
    target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
    several = value if isinstance(value, ast.Tuple) else target if isinstance(target, ast.Tuple) else None
    if isinstance(value, ast.Tuple):
        for index, element in enumerate(value.elts):
            yield "sign", Place(value, "elts", index), _minus(element)
    elif several is None:
        yield "sign", place, _minus(value)
    if several is None:
        return
    where = place if several is value else Place(statement, "targets", 0)
    for k in range(len(several.elts) - 1):
        order = [*several.elts]
        order[k], order[k + 1] = order[k + 1], order[k]
        yield "order", where, ast.Tuple(order, several.ctx)


def _minus(node: ast.expr) -> ast.expr:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return node.operand
    return ast.UnaryOp(ast.USub(), node)


def _in_expression(place: Place, context: str, known: set[str], values: dict):
    """(kind, place, replacement, indexing) for a node and all below; `context` is what numbers there mean."""
    node, indexing = place.get(), context in ("slice", "index", "range")
    for kind, where, new in _changes(node, context, known, values):
        yield kind, where or place, new, indexing or kind in ("slice", "range")
    for inner in _places(node):
        if inner.field in ("ctx", "op", "ops"):
            continue
        below = context
        if isinstance(node, ast.Slice):
            below = "slice"
        elif isinstance(node, ast.Subscript) and inner.field == "slice":
            below = "index"
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq):
            below = "index"  # is it this one?
        elif isinstance(node, ast.keyword) and node.arg in ("axis", "axes"):
            below = "axis"
        elif isinstance(node, ast.Call) and inner.field == "args":
            inside = {"transpose": "order", "range": "range", "einsum": "einsum", "pad": "index"}
            below = inside.get(_called(node), context)
        elif isinstance(node, ast.Attribute) and node.attr == "dtype":
            below = "dtype"
        yield from _in_expression(inner, below, known, values)


def _called(node: ast.AST) -> str:
    """The name of the method or function that is called."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _changes(node: ast.AST, context: str, known: set[str], values: dict):
    """(kind, place or None for the node's own, replacement)"""
    match node:
        case ast.BinOp(left, op, right):
            for other in OPERATORS[type(op)]:
                yield "operator", None, ast.BinOp(left, other(), right)
            if context not in ("slice", "range"):  # bounds are moved by one instead
                yield from _one_side(left, op, right)
        case ast.UnaryOp(ast.USub(), operand):
            yield "slice" if context == "slice" else "sign", None, None if context == "slice" else operand
        case ast.Compare(left, [op], [right]):
            words = isinstance(right, ast.Constant) and isinstance(right.value, str)
            for other in () if words else COMPARISONS.get(type(op), ()):
                yield "comparison", None, ast.Compare(left, [other()], [right])
            yield "mask", None, ast.Compare(left, [OPPOSITES[type(op)]()], [right])
        case ast.IfExp(_, body, orelse):
            yield "branch", None, body
            yield "branch", None, orelse
        case ast.Constant(value):
            yield from ((kind, None, ast.Constant(other)) for kind, other in _other_constants(value, context))
        case ast.Name(name, ast.Load()) if context != "dtype":
            for other in _like(name, known, values)[: ARRAY_SWAPS if isinstance(values.get(name), np.ndarray) else 1]:
                yield "operand", None, ast.Name(other, ast.Load())
        case ast.Tuple(elts, ast.Load()) if context == "axis" and len(elts) > 1:
            for k in range(len(elts)):
                yield "axis", None, ast.Tuple(elts[:k] + elts[k + 1 :], ast.Load())
        case ast.Attribute(value, "T"):
            yield "transpose", None, value
        case ast.Slice(lower, upper):
            for field, bound, outer in (("lower", lower, 0), ("upper", upper, -1)):
                if bound is None:
                    one = ast.Constant(1)
                    yield "slice", Place(node, field), one if outer == 0 else ast.UnaryOp(ast.USub(), one)
                else:
                    for op in (ast.Add(), ast.Sub()):
                        yield "slice", Place(node, field), ast.BinOp(bound, op, ast.Constant(1))
                    yield "slice", Place(node, field), None
            if node.step is not None and not isinstance(node.step, ast.UnaryOp):
                yield "slice", Place(node, "step"), None
        case ast.Call():
            yield from _other_calls(node)


def _one_side(left: ast.expr, op: ast.operator, right: ast.expr):
    """Each side of an operator left out."""
    kind = "term" if isinstance(op, (ast.Add, ast.Sub)) else "factor"
    yield kind, None, left
    if isinstance(op, ast.Sub):
        yield kind, None, ast.UnaryOp(ast.USub(), right)
    elif isinstance(op, ast.Div):
        yield kind, None, ast.BinOp(ast.Constant(1), op, right)
    elif isinstance(op, (ast.Add, ast.Mult, ast.MatMult)):
        yield kind, None, right


def _other_constants(value, context: str):
    if context == "einsum" and isinstance(value, str):
        operands, result = value.split("->")
        parts = operands.split(",")
        for k, part in enumerate(parts):  # the last two axes of an operand exchanged
            yield "axis", ",".join([*parts[:k], part[:-2] + part[:-3:-1], *parts[k + 1 :]]) + "->" + result
    elif isinstance(value, bool):
        yield "axis" if value else "constant", not value
    elif isinstance(value, int):
        if context == "axis":
            yield from (("axis", other) for other in (value - 1, value + 1) if other >= 0)
        elif context not in ("slice", "order"):
            kind = {"range": "range", "index": "slice"}.get(context, "constant")
            yield from ((kind, other) for other in (value - 1, value + 1))
    elif isinstance(value, float):
        yield from (("constant", other) for other in (value + 1, 2 * value, value / 2))


def _other_calls(node: ast.Call):
    name, method = _called(node), isinstance(node.func, ast.Attribute)
    on_array = method and not (isinstance(node.func.value, ast.Name) and node.func.value.id == "np")
    argument = node.func.value if on_array else node.args[0] if node.args else None
    for other in REDUCTIONS.get(name, ()):
        yield "reduction", Place(node, "func"), ast.Attribute(node.func.value, other, ast.Load())
    if name in REDUCTIONS and name != "argmax":
        yield "reduction", None, argument
    for keyword in node.keywords:
        if keyword.arg in ("axis", "keepdims"):
            others = [other for other in node.keywords if other is not keyword]
            yield "axis", None, ast.Call(node.func, node.args, others)
    if name == "reshape":
        yield "reshape", None, argument
    if name == "transpose":
        for k in range(len(node.args) - 1):
            order = [*node.args]
            order[k], order[k + 1] = order[k + 1], order[k]
            yield "transpose", None, ast.Call(node.func, order, [])
        yield "transpose", None, argument
    if name in FUNCTIONS:
        yield "function", None, node.args[-1]
    if name == "len":
        yield "constant", None, ast.BinOp(node, ast.Sub(), ast.Constant(1))
    if name == "zeros_like":
        yield "constant", None, ast.Call(ast.Attribute(node.func.value, "ones_like", ast.Load()), node.args, [])
    if name == "range" and len(node.args) == 1:
        yield "range", None, ast.Call(node.func, [ast.Constant(1), *node.args], [])
        yield "range", None, ast.Call(node.func, [ast.BinOp(node.args[0], ast.Sub(), ast.Constant(1))], [])
        yield "range", None, ast.Call(node.func, [ast.BinOp(node.args[0], ast.Add(), ast.Constant(1))], [])
    if name == "where" and len(node.args) == 3:
        yield "mask", None, ast.Call(node.func, [node.args[0], node.args[2], node.args[1]], [])


def _like(name: str, known: set[str], values: dict) -> list[str]:
    """The other names in scope with a value of the same sort, the likest first.

    Of arrays those of the same shape are first, then those of as many axes.
    """

    def sort(value):
        return "array" if isinstance(value, np.ndarray) else type(value).__name__

    if name not in values:
        return []

    def distance(other):
        return np.shape(values[other]) != np.shape(value), np.ndim(values[other]) != np.ndim(value), other

    value = values[name]
    others = [other for other in known if other != name and other in values and sort(values[other]) == sort(value)]
    return sorted(others, key=distance)
