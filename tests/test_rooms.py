"""The house: rooms import only downwards and nowhere in a circle, and no file is too long to be read at once."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastbp

PACKAGE = Path(fastbp.__file__).parent
FILES = sorted(set(PACKAGE.rglob("*.py")) - {PACKAGE / "__init__.py", PACKAGE / "__main__.py"})

FLOORS = [
    {"archives", "arguments", "canvas", "interrupts", "files", "memory", "processes", "terminal"},
    {"dtypes", "flops", "parameters"},
    {"kernels"},
    {"losses", "optimizers", "initializers", "plotting"},
    {"engine"},
    {"layers"},
    {"costs"},
    {"network", "graph"},
    {"gradcheck", "training", "datasets", "models", "profiling"},
    {"testing", "grading", "sweeps"},
    {"cli"},
]


def imported(path: Path) -> Iterator[Path]:
    """The files of the package that a file imports from, also inside functions, but for what only type checkers see."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unseen = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    unseen = [inside for node in unseen for inside in ast.walk(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and node not in unseen:
            folder = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for name in [alias.name for alias in node.names]:
                places = (folder / f"{name}.py", folder / name / "__init__.py", folder.with_suffix(".py"))
                place = next(filter(Path.exists, places), folder / "__init__.py")
                if place != PACKAGE / "__init__.py":  # of which only the version is wanted
                    yield place


IMPORTS = {path: set(imported(path)) for path in FILES}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def circle(edges: dict) -> list:
    """A way along the edges that ends where it began, or nothing. What leads to nothing that is left is taken away."""
    edges = {name: set(targets) - {name} for name, targets in edges.items()}
    while ends := [name for name, targets in edges.items() if not targets & edges.keys()]:
        edges = {name: targets for name, targets in edges.items() if name not in ends}
    way = list(edges)[:1]
    while way and way.count(way[-1]) < 2:
        way.append(next(name for name in edges[way[-1]] if name in edges))
    return way[way.index(way[-1]) :] if way else []


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c", "a"}, "c": set()}) in (["a", "b", "a"], ["b", "a", "b"])
    assert not circle({"a": {"a", "b", "c"}, "b": {"c"}, "c": set()})


def test_no_import_circle_between_rooms():
    edges = {room_of(path): set() for path in FILES}
    for path, targets in IMPORTS.items():
        edges[room_of(path)] |= set(map(room_of, targets))
    assert not circle(edges)


def test_no_import_circle_between_files():
    assert not [str(path.relative_to(PACKAGE)) for path in circle(IMPORTS)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_file(path):
    floor = {room: k for k, rooms in enumerate(FLOORS) for room in rooms}
    above = {room_of(target) for target in IMPORTS[path] if floor[room_of(target)] > floor[room_of(path)]}
    assert not above, f"imports {above} from a floor above, inside a function perhaps"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
