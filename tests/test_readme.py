"""README's code does what README says: every block is run, and what stands below a block is what it prints.

Python blocks are scripts of their own; names that one does not define are imported from the block above it that does.
Where a block defines tests, they are called; one whose last line has a comment "# fails …" must fail. Shell blocks run
in a folder that looks like a clone of the repository, where `python` and `fastbp` are those of this environment, except
for

- commands that set themselves up (`python3 -m venv …`): what follows the installation is run, but for README's test
  command, which is what runs this file;
- lines that install something: these are not run;
- lines with a comment that begins with `--quick`: they are run with `--quick`;
- lines with `--hours`, or with a comment that speaks of minutes or hours: the program must know the options, that is
  all.

Blocks that need the full data sets, or a package that is not installed, are skipped where these are missing.

Outputs are compared word by word: text exactly, numbers to the digits shown, but to four digits at most, since the last
ones belong to one machine; numbers below 1e-8 are rounding, and numbers with a unit of time are the machine's.
"""

import ast
import builtins
import importlib.util
import math
import os
import re
import shlex
import subprocess
import symtable
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

import fastbp

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SETUP = "python3 -m venv"
PEERS = {"dask", "distributed", "torch", "jax", "sklearn"}
LONG = re.compile(r"#.*\b(minutes|hours)\b|--hours\b")


@dataclass
class Block:
    language: str
    code: str
    line: int
    output: str | None  # what stands below it, with nothing between

    def __str__(self):
        return f"line {self.line}"


def blocks() -> list[Block]:
    found, end = [], None
    for match in FENCE.finditer(README):
        language, text = match.groups()
        if language:
            found.append(Block(language, text, README.count("\n", 0, match.start()) + 1, None))
        else:
            assert found and not README[end : match.start()].strip(), f"whose output is this?\n{text}"
            found[-1].output = text
        end = match.end()
    return found


BLOCKS = blocks()
PYTHON = [block for block in BLOCKS if block.language == "python"]
SHELL = [block for block in BLOCKS if block.language == "sh"]


def test_every_block_is_run():
    assert len(PYTHON) + len(SHELL) == len(BLOCKS) and PYTHON and SHELL
    fences = README.count("\n```")
    assert fences == 2 * (len(BLOCKS) + sum(block.output is not None for block in BLOCKS))


# -- what is the same --------------------------------------------------------------------------------------------------


NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
TIME = re.compile(r"(?<=\d) (?:ns|µs|usec|ms|msec|s|sec|minutes|hours)\b")


def close(one: str, other: str) -> bool:
    """Are the two numbers the same, as far as they are stable?"""
    if re.fullmatch(r"-?\d+", one) or re.fullmatch(r"-?\d+", other):
        return one == other
    a, b = float(one), float(other)
    digits = min(4, *(len(re.sub(r"e.*|[-.]", "", text).lstrip("0")) for text in (one, other)))
    largest = max(abs(a), abs(b))
    return largest < 1e-8 or abs(a - b) <= 1.01 * 10.0 ** (math.floor(math.log10(largest)) + 1 - digits)


def difference(printed: str, said: str) -> str | None:
    """The first line of `said` that `printed` has not, and what stands there."""
    ours, theirs = printed.rstrip().split("\n"), said.rstrip().split("\n")
    for number in range(max(len(ours), len(theirs))):
        pair = [lines[number] if number < len(lines) else "(nothing)" for lines in (theirs, ours)]
        timeless = [TIME.sub("s", re.sub(rf"{NUMBER.pattern}(?={TIME.pattern})", "0", line)) for line in pair]
        texts, numbers = zip(*((NUMBER.sub("0", line), NUMBER.findall(line)) for line in timeless), strict=True)
        if texts[0] != texts[1] or not all(map(close, *numbers)):
            return f"README: {pair[0]}\nhere:   {pair[1]}"
    return None


@pytest.mark.parametrize(
    ("printed", "said", "same"),
    [
        ("loss=0.088658462, 7 of 8", "loss=0.088657171, 7 of 8", True),
        ("loss=0.0894, 7 of 8", "loss=0.0886, 7 of 8", False),
        ("loss=0.0886, 6 of 8", "loss=0.0886, 7 of 8", False),
        ("error 2.0e-11", "error 7.3e-10", True),
        ("error 2.0e-11", "error 2.0e-5", False),
        ("x -0.0182473 ok", "x 0.0182473 ok", False),
        ("x 8.0e-01", "x 8.1e-01", True),
        ("x 8.0e-01", "x 7.0e-01", False),
        ("in 3.5 s at 1.5", "in 14.1 s at 1.5", True),
        ("in 3.5 s at 1.5", "in 14.1 s at 2.5", False),
        ("ok", "WRONG", False),
        ("ok\nmore", "ok", False),
        ("ok", "ok\nmore", False),
    ],
)
def test_what_counts_as_the_same(printed, said, same):
    assert (difference(printed, said) is None) == same


# -- Python ------------------------------------------------------------------------------------------------------------


def missing_names(code: str) -> set[str]:
    """The names that a script uses and does not define."""

    def free(table: symtable.SymbolTable) -> set[str]:
        names = {
            s.get_name()
            for s in table.get_symbols()
            if s.is_referenced() and (s.is_global() or table.get_type() == "module")
        }
        return names.union(*map(free, table.get_children()))

    top = symtable.symtable(code, "README.md", "exec")
    own = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    return free(top) - own - set(dir(builtins)) - {"__name__", "__file__"}


def imported(code: str) -> set[str]:
    """The packages that a script imports, by their first names."""
    nodes = list(ast.walk(ast.parse(code)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in names}


def script(block: Block) -> str:
    """The block, below imports of what it takes from the blocks above it."""
    above, lines = PYTHON[: PYTHON.index(block)], []
    for name in sorted(missing_names(block.code)):
        home = next(
            (other for other in reversed(above) if name not in missing_names(other.code) and defines(other, name)), None
        )
        assert home, f"README.md, {block}: {name} is defined nowhere above"
        lines.append(f"from {module(home)} import {name}")
    quiet = [
        "import contextlib, io",
        "with contextlib.redirect_stdout(io.StringIO()):",
        *(f"    {line}" for line in lines),
    ]
    return "\n".join([*(quiet if lines else []), block.code, *calls_of_tests(block)])


def defines(block: Block, name: str) -> bool:
    symbols = symtable.symtable(block.code, "README.md", "exec").get_symbols()
    return any(s.get_name() == name and (s.is_assigned() or s.is_imported()) for s in symbols)


def module(block: Block) -> str:
    return f"readme_line_{block.line}"


def calls_of_tests(block: Block) -> list[str]:
    """Lines that call the block's tests as pytest would, and want a failure where the test says that it fails."""
    lines, text = [], block.code.split("\n")
    for node in ast.parse(block.code).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            if "# fails" in text[node.end_lineno - 1]:
                lines += ["try:", f"    {node.name}()", "except AssertionError:", "    pass", "else:"]
                lines += [f"    raise SystemExit('{node.name} does not fail')"]
            else:
                lines.append(f"{node.name}()")
    return lines


def of_block(block: Block):
    marks = [pytest.mark.peers] if block.language == "python" and imported(block.code) & PEERS else []
    return pytest.param(block, marks=marks, id=str(block).replace(" ", "-"))


@pytest.fixture
def clone(tmp_path) -> Path:
    """A folder with the repository's folders, so that paths in commands are right."""
    for name in ("examples", "bench", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def environment(folder: Path) -> dict[str, str]:
    """`python` and `fastbp` are this environment's, README's Python blocks can be imported, photos are there."""
    programs = folder / "programs"
    programs.mkdir()
    for name, command in (("python", ""), ("python3", ""), ("fastbp", " -m fastbp")):
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{command} "$@"\n')
        (programs / name).chmod(0o755)
    for name in set(re.findall(r"\b[\w-]+\.(?:png|jpg|jpeg)\b", README)):
        image = Image.new("L", (60, 60), 255)
        image.paste(0, (27, 8, 33, 52))  # a 1, dark on light
        image.save(folder / name)
    for block in PYTHON:
        (folder / f"{module(block)}.py").write_text(block.code, encoding="utf-8")
    paths = [str(folder), str(Path(fastbp.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONIOENCODING": "utf-8"}


def run(command: list[str], folder: Path, block: Block, env: dict[str, str]) -> None:
    result = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, encoding="utf-8", timeout=300, check=False
    )
    assert result.returncode == 0, f"README.md, {block}\n{result.stdout}\n{result.stderr}"
    if block.output is not None:
        differs = difference(result.stdout, block.output)
        assert differs is None, f"README.md, {block}\n{differs}"


CLUSTER = "__import__('distributed').LocalCluster(n_workers=1, threads_per_worker=1, processes=False, "
CLUSTER += "dashboard_address=None)"


@pytest.mark.parametrize("block", [of_block(block) for block in PYTHON])
def test_python(block, clone):
    for name in imported(block.code):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    # a cluster of one worker in place of the one that is named
    code = re.sub(r"\"scheduler:\d+\"", CLUSTER, script(block))
    (clone / "block.py").write_text(code, encoding="utf-8")
    run([sys.executable, "block.py"], clone, block, environment(clone))


# -- the shell ---------------------------------------------------------------------------------------------------------


def commands(text: str) -> list[str]:
    """The commands of a shell block: lines, joined where a quotation or a backslash goes on."""
    found, waiting = [], ""
    for line in text.splitlines():
        waiting += line
        try:
            shlex.split(waiting, comments=True)
        except ValueError:
            waiting += "\n"
            continue
        if waiting.endswith("\\"):
            waiting += "\n"
            continue
        found.append(waiting)
        waiting = ""
    assert not waiting, f"no end of this command: {waiting}"
    return [command for command in found if shlex.split(command, comments=True)]


def prepared(command: str) -> str | None:
    """What is run of a command, by the rules above; None for nothing."""
    if command.startswith(SETUP):
        rest = [part for part in command.split(" && ") if SETUP not in part and "/pip install" not in part]
        command = " && ".join(rest).replace(".venv/bin/", "")
        return None if "pytest" in command else command
    if "pip install" in command:
        return None
    bare, quick, _ = command.partition("# --quick")
    return f"{bare.rstrip()} --quick" if quick else command


def needs_data(command: str) -> bool:
    """Does it read a data set that does not come with the package?"""
    words = shlex.split(command, comments=True)
    scripts = [word for word in words if re.match(r"(examples|bench)/\w+\.py$", word)]
    named = any(
        set(words[k + 1 : k + 2]) & {"mnist", "notmnist", "cifar10"} for k, word in enumerate(words) if word == "--data"
    )
    return named or any(
        "datasets." in (ROOT / name).read_text() or "import load" in (ROOT / name).read_text() for name in scripts
    )


def test_the_two_commands_that_set_themselves_up():
    """The one that tests is what CI runs (`.ci/run` looks for it by the same pattern)."""
    found = [command for block in SHELL for command in commands(block.code) if command.startswith(SETUP)]
    assert len(found) == 2 and all("&& .venv/bin/pip install" in command for command in found)
    (pattern,) = re.findall(r"sed -n 's/\^\\\((.*)\\\)\$/\\1/p' \S*README.md", (ROOT / ".ci" / "run").read_text())
    assert [command for command in found if re.fullmatch(pattern, command)] == [found[-1]]


def wanted(block: Block) -> list[str]:
    return [command for command in map(prepared, commands(block.code)) if command and not LONG.search(command)]


@pytest.mark.skipif(os.name != "posix", reason="README's commands are for a POSIX shell")
@pytest.mark.parametrize("block", [of_block(block) for block in SHELL if wanted(block)])
def test_shell(block, clone):
    if "FASTBP_DATA" not in os.environ and any(map(needs_data, wanted(block))):
        pytest.skip("needs FASTBP_DATA with the full data sets")
    run(["/bin/sh", "-e", "-c", "\n".join(wanted(block))], clone, block, environment(clone))


def options_are_known(command: str) -> bool:
    words = shlex.split(command, comments=True)
    program = [sys.executable, *(words[1:2] if words[0] == "python" else ["-m", "fastbp", words[1]])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    said = subprocess.run(
        [*program, "--help"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    return {word.split("=")[0] for word in words if word.startswith("-")} <= set(
        re.findall(r"(?<!\w)--?[a-z][\w-]*", said)
    )


def test_what_takes_long_is_not_run_but_its_options_are_known():
    for command in [command for block in SHELL for command in commands(block.code) if LONG.search(command)]:
        assert options_are_known(command), command
    assert options_are_known("python bench/epoch.py --batches 32,128  # an example: some minutes")
    assert not options_are_known("fastbp train --days 3")
