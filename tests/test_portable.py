"""The lowest versions that setup.cfg allows are those that CI tests with: they stand in tests/lowest.txt."""

import configparser
import re
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.portable


def version(text: str) -> tuple[int, ...]:
    """1.9.0 and 1.9 are the same."""
    numbers = [int(part) for part in text.split(".")]
    while numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def lowest(lines: str, sign: str) -> dict[str, tuple[int, ...]]:
    """name -> version of each line `name sign version  # comment`; nothing else may stand there."""
    found = {}
    for line in filter(None, (line.split("#")[0].strip() for line in lines.splitlines())):
        name, number = re.fullmatch(rf"([\w-]+) *{sign} *([\d.]+)", line).groups()
        found[name] = version(number)
    return found


def declared() -> configparser.ConfigParser:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    return settings


PINNED = lowest((ROOT / "tests" / "lowest.txt").read_text(), "==")


def test_the_lowest_versions_are_the_declared_ones():
    settings = declared()
    both = settings["options"]["install_requires"] + settings["options.extras_require"]["test"]
    assert lowest(both, ">=") == PINNED


def test_the_oldest_python_is_the_declared_one():
    settings = declared()
    classifiers = re.findall(r":: (3\.\d+)$", settings["metadata"]["classifiers"], re.MULTILINE)
    assert settings["options"]["python_requires"] == f">={min(classifiers, key=version)}"


@pytest.mark.parametrize("name", PINNED)
def test_what_is_installed_is_allowed(name):
    installed = re.match(r"[\d.]*\d", metadata.version(name))[0]
    assert version(installed) >= PINNED[name]
