"""A graph as a figure, laid out by hand, and as DOT text for Graphviz.

A tensor is a box: its name, its value if it has few elements and its shape if not, and the gradient once there is one.
An operation is an oval between the tensors that it takes and those that it gives.
"""

import numpy as np

from .nodes import OpNode, TensorNode, ancestors, tensors

Vertex = TensorNode | OpNode | tuple  # a tuple: the place where an edge passes a column

FEW = 4  # elements of a value that are written out
LARGEST = 300  # nodes of a figure that can still be read
SWEEPS = 12  # of ordering and of straightening; more change little
EDGE = {"color": "#555555", "linewidth": 0.8}
COLUMN, ROW, LETTER = 1.1, 0.75, 0.075  # inches: from column to column, from row to row, a letter's width


def label(vertex: TensorNode | OpNode) -> str:
    """What is written on a node, a line for each thing."""
    if isinstance(vertex, OpNode):
        return vertex.op.title(vertex.context)
    few = vertex.size <= FEW
    name = "" if vertex.name is None else f"{vertex.name} = " if few else f"{vertex.name} "
    gradient = f"\ngrad {_text(vertex.grad)}" if few and vertex.has_grad else ""
    return name + _text(vertex.value) + gradient


def _text(array: np.ndarray) -> str:
    if array.size > FEW:
        return f"({', '.join(map(str, array.shape))})".replace(",)", ")")
    return np.array2string(array, formatter={"float_kind": lambda x: f"{x:.4g}"}, separator=", ").replace("\n", "")


def edges_of(node: TensorNode) -> list[tuple[TensorNode | OpNode, TensorNode | OpNode]]:
    """The pairs (from, to) of the graph of a node; a tensor that an operation takes twice has two."""
    edges, shown = [], set(tensors(node))
    for operation in ancestors(node):
        edges += [(tensor, operation) for tensor in operation.inputs]
        edges += [(operation, tensor) for tensor in operation.outputs if tensor in shown]
    return edges


def dot(node: TensorNode) -> str:
    """The graph of a node in the DOT language: `dot -Tsvg` of Graphviz draws it.

    >>> print(dot(TensorNode(2.0, name="x") * 3.0))
    digraph {
        rankdir=LR
        n0 [shape=box, label="x = 2"]
        n1 [shape=ellipse, label="Multiply"]
        n2 [shape=box, label="3"]
        n3 [shape=box, label="6"]
        n0 -> n1
        n2 -> n1
        n1 -> n3
    }
    """
    edges = edges_of(node)
    number = {vertex: k for k, vertex in enumerate(dict.fromkeys([*(v for edge in edges for v in edge), node]))}
    lines = ["digraph {", "    rankdir=LR"]
    for vertex, k in number.items():
        text = label(vertex).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        lines.append(f'    n{k} [shape={"box" if isinstance(vertex, TensorNode) else "ellipse"}, label="{text}"]')
    lines += [f"    n{number[start]} -> n{number[end]}" for start, end in edges]
    return "\n".join([*lines, "}"])


def draw(node: TensorNode):
    """A matplotlib Figure of the graph of a node, from the inputs on the left to the node on the right.

    `figure.savefig("graph.png")` writes it. Draw before `backward`, or keep the graph with `backward(keep_graph=True)`:
    then the gradients are in the figure too. ValueError for a graph of more than 300 nodes, which nobody could read.
    """
    from ..canvas import Figure, can_set

    edges = edges_of(node)
    count = len({node, *(vertex for edge in edges for vertex in edge)})
    if count > LARGEST:
        raise ValueError(f"draw: node: a graph of {count} nodes can't be read in a figure; graph.dot gives it as text")
    columns, routes = _columns(node, edges)
    places = _places(columns, routes)
    width, height = (max(place[k] for place in places.values()) for k in (0, 1))
    longest = max(len(line) for vertex in columns for line in label(vertex).split("\n"))
    column = COLUMN + max(0, longest - 6) * LETTER
    figure = Figure(figsize=((width + 1) * column, (height + 1) * ROW))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.5, width + 0.5), ylim=(height + 0.5, -0.5))
    axes.set_axis_off()
    boxes = {}
    for vertex in columns:
        tensor = isinstance(vertex, TensorNode)
        leaf = tensor and vertex.source is None
        box = {
            "boxstyle": "square,pad=0.4" if tensor else "round,pad=0.5,rounding_size=0.8",
            "edgecolor": "#1f4e9c" if leaf else "#7f7f7f",
            "facecolor": "white" if tensor else "#e8edf5",
        }
        shown = label(vertex).encode(errors="replace").decode()
        style = {"bbox": box, "fontsize": 8, "ha": "center", "va": "center", "zorder": 2}
        # a name may have a $ that begins no formula
        boxes[vertex] = axes.text(*places[vertex], shown, parse_math=can_set(shown), **style)
    figure.draw_without_rendering()  # now the boxes have their sizes, and arrows can end at them
    for route in routes:
        _line(axes, route, places, boxes)
    return figure


def _line(axes, route: list[Vertex], places: dict, boxes: dict) -> None:
    """An edge through its places, with an arrow at its end."""
    *before, last, end = route
    if before:
        axes.plot(*zip(*(places[v] for v in [*before, last]), strict=True), zorder=1, **EDGE)
    arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 1, "patchB": boxes[end].get_bbox_patch(), **EDGE}
    if last in boxes:
        arrow["patchA"] = boxes[last].get_bbox_patch()
    axes.annotate("", xy=places[end], xytext=places[last], arrowprops=arrow, zorder=3)


# -- the layout: columns, the order in each that crosses few edges, and heights that make edges straight ---------------


def _columns(node: TensorNode, edges: list) -> tuple[dict[Vertex, int], list[list[Vertex]]]:
    """The column of each node, and each edge as its places: the nodes at its ends, and one in each column between.

    A node stands one column after the last that it needs; one that needs nothing, one before the first that needs it.
    """
    columns: dict[Vertex, int] = {}
    for start, end in edges:  # oldest operation first, so that the starts have their final columns
        columns[start] = columns.get(start, 0)
        columns[end] = max(columns.get(end, 0), columns[start] + 1)
    columns.setdefault(node, 0)
    for vertex in columns:
        if isinstance(vertex, TensorNode) and vertex.source is None and vertex is not node:
            columns[vertex] = min(columns[end] for start, end in edges if start is vertex) - 1
    routes = []
    for k, (start, end) in enumerate(edges):
        routes.append([start, *((k, column) for column in range(columns[start] + 1, columns[end])), end])
    return columns, routes


def _places(columns: dict[Vertex, int], routes: list[list[Vertex]]) -> dict[Vertex, tuple[float, float]]:
    """(x, y) of each node, and of the places that edges pass."""
    everything = columns | {place: place[1] for route in routes for place in route[1:-1]}
    neighbours: dict[Vertex, list[Vertex]] = {vertex: [] for vertex in everything}
    for route in routes:
        for a, b in zip(route, route[1:], strict=False):
            neighbours[a].append(b)
            neighbours[b].append(a)
    rows = [[v for v in everything if everything[v] == column] for column in range(max(everything.values()) + 1)]
    height = {vertex: float(k) for row in rows for k, vertex in enumerate(row)}
    for _ in range(SWEEPS):
        for row in [*rows, *rows[::-1]]:
            wanted = {v: np.mean([height[n] for n in neighbours[v]]) if neighbours[v] else height[v] for v in row}
            row.sort(key=wanted.get)  # by the mean of the neighbours: few edges cross
            for vertex, y in zip(row, _apart([wanted[v] for v in row]), strict=True):
                height[vertex] = y
    lowest = min(height.values())
    return {vertex: (float(everything[vertex]), height[vertex] - lowest) for vertex in everything}


def _apart(heights: list[float]) -> list[float]:
    """The ascending heights nearest to the given ones, in the sense of least squares, that are at least 1 apart."""
    groups: list[list[float]] = []  # heights less their rank must not fall: runs that would are given their mean
    for k, y in enumerate(heights):
        groups.append([y - k])
        while len(groups) > 1 and np.mean(groups[-2]) > np.mean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    levels = [float(np.mean(group)) for group in groups for _ in group]
    return [level + k for k, level in enumerate(levels)]
