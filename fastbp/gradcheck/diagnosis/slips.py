"""Each way to get a short formula wrong by one slip: an operator, a term, a constant, a comparison, an axis, a name."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from types import CodeType

OPERATORS = {"+": ast.Add, "-": ast.Sub, "*": ast.Mult, "/": ast.Div, "@": ast.MatMult}
COMPARISONS = {">": ast.Gt, ">=": ast.GtE, "<": ast.Lt, "<=": ast.LtE, "==": ast.Eq, "!=": ast.NotEq}
KINDS = (
    "sign",
    "factor",
    "term",
    "operator",
    "comparison",
    "axis",
    "transpose",
    "order",
    "constant",
    "function",
    "operand",
)
# -- the simplest explanation first
INSTEAD = {
    "sum": ("mean", "max", "sum_other", "sum_all"),
    "mean": ("sum", "max", "mean_other", "mean_all"),
    "max": ("min",),
}
# -- sum_other and mean_other run over the axes that sum and mean leave, sum_all and mean_all over all


@dataclass(frozen=True)
class Slip:
    """One wrong formula: what was done to `piece`, the code, and the expression that changed, after and before."""

    kind: str
    piece: str
    code: CodeType
    changed: str
    original: str

    @property
    def cost(self) -> tuple:
        """What to sort by, the simplest explanation first."""
        return self.kind != "sign", len(self.line), KINDS.index(self.kind)

    @property
    def line(self) -> str:
        return _tidy(self.changed)

    @property
    def was(self) -> str:
        return _tidy(self.original)


def _tidy(expression: str) -> str:
    return ast.unparse(ast.parse(expression))


@lru_cache(maxsize=256)
def slips(source: str, names: tuple[str, ...], cached: tuple[str, ...] = ()) -> tuple[Slip, ...]:
    """All slips in `source`, lines `name = expression`.

    `names` are what a name may be mistaken for, `cached` those of arrays, two of which may be exchanged throughout.
    """
    lines, found, tree = source.split("\n"), {}, ast.parse(source)
    comparisons = [node for node in ast.walk(tree) if isinstance(node, ast.Compare)]
    compared = {inner for node in comparisons for inner in ast.walk(node) if inner is not node}
    for node in ast.walk(tree):
        for kind, piece, other in _instead(node, names):
            if node in compared and kind != "operand":
                kind = "comparison"  # whatever is wrong on one side of it
            number, text = node.lineno - 1, ast.unparse(other)
            # the text is changed, not the tree: that is much faster
            text = text if isinstance(node, (ast.keyword, ast.Assign)) else f"({text})"
            line = lines[number][: node.col_offset] + text + lines[number][node.end_col_offset :]
            changed = "\n".join((*lines[:number], line, *lines[number + 1 :]))
            if changed not in found:
                expressions = (text.split(" = ", 1)[1] for text in (line, lines[number]))
                found[changed] = Slip(kind, piece, compile(changed, "<formula>", "exec"), *expressions)
    assigned = re.findall(r"^\w+(?= =)", source, re.MULTILINE)
    used = [name for name in cached if name not in assigned and re.search(rf"\b{name}\b", source)]
    for one, other in combinations(used, 2):
        exchanged = {one: other, other: one}
        changed = re.sub(rf"\b({one}|{other})\b", lambda match, to=exchanged: to[match[1]], source)
        text, was = (f"({code.rpartition('result = ')[2]})" for code in (changed, source))
        found.setdefault(changed, Slip("order", f"{one} and {other}", compile(changed, "<formula>", "exec"), text, was))
    return tuple(sorted(found.values(), key=lambda slip: KINDS.index(slip.kind)))


def _instead(node: ast.AST, names: tuple[str, ...]) -> Iterator[tuple[str, str, ast.AST]]:
    """(kind, piece, what to put for node)"""
    if isinstance(node, ast.BinOp):
        left, right, text = node.left, node.right, ast.unparse
        part = "term" if isinstance(node.op, (ast.Add, ast.Sub)) else "factor"
        yield part, text(right), left
        yield part, text(left), ast.UnaryOp(ast.USub(), right) if isinstance(node.op, ast.Sub) else right
        if isinstance(node.op, ast.Div):
            yield part, text(left), ast.BinOp(ast.Constant(1), ast.Div(), right)
        if isinstance(node.op, (ast.Sub, ast.Div)):
            yield part, text(left), right
            yield "operator", text(node), ast.BinOp(right, node.op, left)
        if isinstance(node.op, ast.MatMult):
            yield "transpose", text(node), ast.BinOp(left, ast.MatMult(), ast.Attribute(right, "T", ast.Load()))
            yield "transpose", text(node), ast.BinOp(ast.Attribute(left, "T", ast.Load()), ast.MatMult(), right)
            yield "transpose", text(node), ast.BinOp(right, ast.MatMult(), left)
        for operator in OPERATORS.values():
            if not isinstance(node.op, (operator, ast.Pow)):
                yield "operator", text(node), ast.BinOp(left, operator(), right)
        if isinstance(node.op, ast.Pow):
            yield "operator", text(node), ast.BinOp(left, ast.Mult(), right)
            yield "operator", text(node), ast.BinOp(left, ast.Div(), right)
        elif isinstance(node.op, ast.Mult):
            yield "operator", text(node), ast.BinOp(left, ast.Pow(), right)
    elif isinstance(node, ast.UnaryOp):
        yield "sign", ast.unparse(node.operand), node.operand
    elif isinstance(node, ast.Assign):
        negative = ast.Assign(node.targets, ast.UnaryOp(ast.USub(), node.value))
        yield "sign", ast.unparse(node.value), ast.copy_location(negative, node)
    elif isinstance(node, ast.Constant):
        value = node.value
        for other in dict.fromkeys((value - 1, value + 1, -value, 2 * value, value / 2, 0, 1)):
            if other != value:
                yield "constant", ast.unparse(node), ast.Constant(other)
    elif isinstance(node, ast.Compare):
        for operator in COMPARISONS.values():
            if not isinstance(node.ops[0], operator):
                yield "comparison", ast.unparse(node), ast.Compare(node.left, [operator()], node.comparators)
        yield "factor", ast.unparse(node), ast.Constant(1)
    elif isinstance(node, ast.Call):
        yield "function", ast.unparse(node.func), node.args[0] if node.args else node.func.value
        called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        for other in INSTEAD.get(called, ()):
            if isinstance(node.func, ast.Name):
                kind = "axis" if "_" in other else "function"
                yield kind, called, ast.Call(ast.Name(other, ast.Load()), node.args, [])
            elif "_" not in other:
                method = ast.Attribute(node.func.value, other, ast.Load())
                yield "function", called, ast.Call(method, node.args, node.keywords)
        for argument in node.args if called in ("exp", "sqrt") else ():
            negative = ast.UnaryOp(ast.USub(), argument)
            yield "sign", ast.unparse(argument), ast.Call(node.func, [negative], [])
    elif isinstance(node, ast.keyword):
        # an axis: the others, or all of them
        for other in (0, 1, (0, 1), (0, 1, 2), (0, 1, 3), (1, 2, 3), (2, 3), (0, 2), (0, 3), (0,)):
            yield "axis", ast.unparse(node), ast.keyword("axis", ast.parse(repr(other), mode="eval").body)
    elif isinstance(node, ast.Attribute) and node.attr == "T":
        yield "transpose", ast.unparse(node.value), node.value
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in names:
        for other in names:
            if other != node.id:
                yield "operand", node.id, ast.Name(other, ast.Load())
        yield "constant", node.id, ast.Constant(1)
        yield "operand", node.id, ast.BinOp(ast.Name(node.id, ast.Load()), ast.Mult(), ast.Name(node.id, ast.Load()))
