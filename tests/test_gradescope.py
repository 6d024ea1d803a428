"""Gradescope: results.json against the published format, and the example autograder's scripts when things go wrong."""

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastbp.grading.results import ItemResult, Part, Result, gradescope

HERE = Path(__file__).parent
EXAMPLE = HERE.parent / "examples" / "gradescope"
SCHEMA = json.loads((HERE / "gradescope.schema.json").read_text())


def item(name: str = "fc", share: float = 1.0, **more) -> ItemResult:
    lines = ["a line", "  and \ud800\x00<b>"]
    parts = [Part("present", 1, 1), Part("forward", 4 * share, 4), Part("backward", 5 * share, 5, lines)]
    return ItemResult(name, parts, **more)


DELAYED = ("hidden", "after_due_date", "after_published")
WEAK = item(share=1 / 3, causes=["wrong sign"], flags=["slow"], convention="as usual")
RESULTS = {
    "right": Result(
        "ann", "eecs598-hw1", 0, 20.0, [item(), item("relu")], seconds=7.1234567, finished=True, notes=["a note"]
    ),
    "wrong": Result("bob", "eecs598-hw1", 3, 10.0, [WEAK]),
    "hidden": Result("cy", "mine", 0, 30.0, [item(v, visibility=v) for v in DELAYED]),
    "error": Result("di", "mine", 0, 10.0, error="the grader failed: MemoryError", finished=True),
    "no points": Result("ed", "mine", 0, 0.0, [ItemResult("note", [Part("present", 0, 0)])], finished=True),
}


# -- the format --------------------------------------------------------------------------------------------------------


TYPES = {"object": dict, "array": list, "string": str, "number": (int, float)}


def violations(value, schema: dict, at: str = "$") -> Iterator[str]:
    """What of the schema does not hold, for the words of JSON Schema that the file uses: no package is needed."""
    known = "$schema title $defs $ref type enum minimum properties additionalProperties required items anyOf"
    assert set(schema) <= set(known.split())
    if "$ref" in schema:
        yield from violations(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")], at)
    if "type" in schema:
        wanted = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if isinstance(value, bool) or not any(isinstance(value, TYPES[name]) for name in wanted):
            yield f"{at} is not of type {' or '.join(wanted)}"
            return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at} is none of {schema['enum']}"
    if "minimum" in schema and value < schema["minimum"]:
        yield f"{at} is less than {schema['minimum']}"
    if isinstance(value, dict):
        yield from (f"{at} has no {name}" for name in schema.get("required", ()) if name not in value)
        properties = schema.get("properties", {})
        for name, entry in value.items():
            if name in properties:
                yield from violations(entry, properties[name], f"{at}.{name}")
            elif schema.get("additionalProperties") is False:
                yield f"{at}.{name} is not known"
    if isinstance(value, list):
        for k, entry in enumerate(value):
            yield from violations(entry, schema.get("items", {}), f"{at}[{k}]")
    if "anyOf" in schema and all(any(violations(value, one, at)) for one in schema["anyOf"]):
        yield f"{at} is none of the kinds allowed"


def written(result: Result) -> dict:
    """As it comes back from the file."""
    return json.loads(json.dumps(gradescope(result), allow_nan=False))


# (where, what is put there) of a valid result, which makes it invalid
WRONG = [
    (("execution_time",), "7.1"),
    (("execution_time",), -1),
    (("score",), None),
    (("score",), True),
    (("output",), ["a", "list"]),
    (("visibility",), "public"),
    (("output_format",), "markdown"),
    (("stdout_visibility",), True),
    (("extra_data",), []),
    (("points",), 3),
    (("tests",), {}),
    (("tests", 0), "fc"),
    (("tests", 0, "status"), "ok"),
    (("tests", 0, "number"), 1),
    (("tests", 0, "score"), "10"),
    (("tests", 0, "tags"), "wrong sign"),
    (("tests", 0, "tags"), [1]),
    (("tests", 0, "visibility"), "after"),
    (("tests", 0, "name_format"), "json"),
    (("tests", 0, "seconds"), 1.0),
    (("leaderboard",), [{"name": "score"}]),
    (("leaderboard",), [{"name": "score", "value": 1, "order": "up"}]),
]


def spoiled(where: tuple, what) -> dict:
    out = written(RESULTS["right"])
    inner = out
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = what
    return out


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_valid(name):
    assert list(violations(written(RESULTS[name]), SCHEMA)) == []


@pytest.mark.parametrize(("where", "what"), WRONG)
def test_what_is_not_valid_is_seen(where, what):
    assert list(violations(spoiled(where, what), SCHEMA))


def test_a_score_is_needed_somewhere():
    tests = copy.deepcopy(written(RESULTS["right"])["tests"])
    assert not list(violations({"tests": tests}, SCHEMA))
    assert not list(violations({"score": 1}, SCHEMA))
    del tests[1]["score"]
    assert list(violations({"tests": tests}, SCHEMA)) == ["$ is none of the kinds allowed"]
    assert list(violations({}, SCHEMA)) == ["$ is none of the kinds allowed"]


def test_the_package_says_the_same():
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for result in RESULTS.values():
        assert validator.is_valid(written(result))
    for where, what in WRONG:
        assert not validator.is_valid(spoiled(where, what)), where


def test_what_results_say():
    wrong = written(RESULTS["wrong"])
    assert (
        wrong["score"] == pytest.approx(4)
        and wrong["extra_data"]["seed"] == 3
        and wrong["extra_data"]["finished"] is False
    )
    (fc,) = wrong["tests"]
    assert (fc["score"], fc["max_score"], fc["status"], fc["tags"]) == (4.0, 10, "failed", ["wrong sign"])
    assert "slow" not in fc["output"] and fc["extra_data"] == {"convention": "as usual", "flags": ["slow"]}
    assert [test["visibility"] for test in written(RESULTS["hidden"])["tests"]] == list(DELAYED)
    assert "the grader failed" in written(RESULTS["error"])["output"]


# -- run_autograder ----------------------------------------------------------------------------------------------------


TOOLS = all(map(shutil.which, ("bash", "timeout")))
scripts = pytest.mark.skipif(not TOOLS, reason="bash or timeout is not on this machine")


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def autograder(tmp_path) -> Path:
    """A folder as Gradescope's /autograder, and beside it `bin` with what is on PATH."""
    for name in ("bin", "autograder/source", "autograder/submission", "autograder/results"):
        (tmp_path / name).mkdir(parents=True)
    script(tmp_path / "bin" / "python3", f'exec "{sys.executable}" "$@"')
    (tmp_path / "autograder" / "submission" / "layers.py").write_text(
        "def fc_forward(x, w, b): return x @ w + b, None\n"
    )
    return tmp_path / "autograder"


def run(autograder: Path, fastbp: str | None, seconds: int = 60) -> dict:
    """results.json after run_autograder, with a `fastbp` that does as it is told: $OUT is its --output."""
    beside = autograder.parent / "bin"
    if fastbp is not None:
        told = f'printf "%s\\n" "$@" > "{autograder}/arguments"\nfor OUT in "$@"; do :; done'
        absent = '[ ! -e "$OUT" ] || exit 2  # as the real one, which overwrites nothing'
        script(beside / "fastbp", f"{told}\n{absent}\n{fastbp}")
    env = {"PATH": f"{beside}:/usr/bin:/bin", "AUTOGRADER": str(autograder), "AUTOGRADER_SECONDS": str(seconds)}
    done = subprocess.run(
        [str(EXAMPLE / "run_autograder")], env=env, cwd=autograder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "ended with status" in done.stdout
    text = (autograder / "results" / "results.json").read_text()
    results = json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
    assert list(violations(results, SCHEMA)) == []
    assert os.listdir(autograder / "results") == ["results.json"]
    return results


def leaves(autograder: Path, text: str) -> str:
    """A line of shell that leaves this text in results.json."""
    (autograder.parent / "left").write_text(text)
    return f'cat "{autograder.parent / "left"}" > "$OUT"'


def assert_failed(results: dict) -> None:
    assert results["score"] == 0
    (test,) = results["tests"]
    assert (test["name"], test["status"], test["visibility"]) == ("The autograder failed", "failed", "visible")
    assert "please tell your instructor" in test["output"]


@scripts
def test_run_autograder_calls_fastbp(autograder):
    right = gradescope(RESULTS["right"])
    assert run(autograder, leaves(autograder, json.dumps(right))) == written(RESULTS["right"])
    assert (autograder / "results" / "results.json").read_text() == json.dumps(right)  # as it was
    options = ["--format", "gradescope", "--output", f"{autograder}/results/results.json"]
    grade = ["grade", "--one", f"{autograder}/submission", "--assignment"]
    assert (autograder / "arguments").read_text().split("\n") == [*grade, "eecs598-hw1", *options, ""]
    (autograder / "source" / "assignment.py").touch()
    run(autograder, leaves(autograder, json.dumps(right)))
    assert (autograder / "arguments").read_text().split("\n") == [
        *grade,
        f"{autograder}/source/assignment.py",
        *options,
        "",
    ]


@scripts
@pytest.mark.parametrize("crash", ["exit 1", "kill -9 $$", "exit 0"])
def test_a_crash_before_anything_was_written(autograder, crash):
    (autograder / "results" / "results.json").write_text(json.dumps(gradescope(RESULTS["right"])))  # of an earlier run
    assert_failed(run(autograder, crash))


@scripts
def test_no_fastbp_at_all(autograder):
    assert_failed(run(autograder, None))


VALID = json.dumps(gradescope(RESULTS["right"]))


@scripts
@pytest.mark.parametrize(
    "garbage",
    ["", "no JSON", VALID[:-20], "[]", "null", "3", "{}", '{"score": "20", "tests": [{}]}',
     '{"score": NaN, "tests": [{}]}', '{"score": 1e999, "tests": [{}]}', '{"score": true, "tests": [{}]}',
     '{"score": 3}', '{"score": 3, "tests": 4}', '{"score": 3, "tests": ["fc"]}', "[" * 100_000,
     json.dumps(gradescope(RESULTS["error"]))],
    ids=lambda text: text[:30] or "nothing",
)  # fmt: skip
def test_garbage_is_replaced(autograder, garbage):
    assert_failed(run(autograder, leaves(autograder, garbage)))


@scripts
@pytest.mark.parametrize("end", ["exit 1", "kill -9 $$", "exit 0"])
def test_partial_results_are_kept(autograder, end):
    partial = written(RESULTS["wrong"])
    results = run(autograder, leaves(autograder, json.dumps(partial)) + f"\n{end}")
    first, rest = results.pop("output").split("\n", 1)
    assert first.startswith("Grading stopped before its end") and rest == partial.pop("output")
    assert results == partial and results["score"] == 4


@scripts
def test_grading_that_never_ends(autograder):
    assert_failed(run(autograder, "exec sleep 50", seconds=1))
    results = run(autograder, leaves(autograder, json.dumps(written(RESULTS["wrong"]))) + "\nexec sleep 50", seconds=1)
    assert results["score"] == 4 and "Grading stopped" in results["output"]


# -- setup.sh ----------------------------------------------------------------------------------------------------------


@scripts
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("wheel", [False, True])
def test_setup_installs_fastbp(autograder, old, wheel):
    """With stubs for what it calls: which Python makes the environment, what pip is told to install, what is tried."""
    beside, log = autograder.parent / "bin", autograder.parent / "log"
    script(autograder.parent / "tool", f'echo "$(basename "$0") $*" >> "{log}"')
    makes = (
        f'mkdir -p "$3/bin"; cp "{autograder.parent}/tool" "$3/bin/pip"; cp "{autograder.parent}/tool" "$3/bin/fastbp"'
    )
    shutil.copy(autograder.parent / "tool", beside / "apt-get")
    script(beside / "python3", f'if [ "$1" = -c ]; then exit {int(old)}; fi; echo python3 >> "{log}"; {makes}')
    script(beside / "python3.11", f'echo python3.11 >> "{log}"; {makes}')
    package = autograder / "source" / "fastbp-0.1.0-py3-none-any.whl"
    if wheel:
        package.touch()
        (autograder / "source" / "assignment.py").touch()
    env = {"PATH": f"{beside}:/usr/bin:/bin", "AUTOGRADER": str(autograder)}
    subprocess.run([str(EXAMPLE / "setup.sh")], env=env, check=True, timeout=60)
    newer = ["apt-get install -y python3.11 python3.11-venv", "python3.11"] if old else ["python3"]
    installed = f"pip install {package if wheel else 'fastbp'}"
    start = ["apt-get update", "apt-get install -y python3 python3-venv"]
    graded = f"fastbp grade {autograder}/empty.py --assignment "
    graded += f"{autograder}/source/assignment.py" if wheel else "eecs598-hw1"
    assert log.read_text().splitlines() == [*start, *newer, installed, graded]


@scripts
def test_setup_fails_where_an_install_fails(autograder):
    script(autograder.parent / "bin" / "apt-get", "exit 100")
    env = {"PATH": f"{autograder.parent / 'bin'}:/usr/bin:/bin", "AUTOGRADER": str(autograder)}
    assert subprocess.run([str(EXAMPLE / "setup.sh")], env=env, timeout=60).returncode == 100
