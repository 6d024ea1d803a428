"""Hypothesis without deadlines, which would time the compiler, and with the same examples on every run in CI.

A comparison with another package that is left out is said.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from first_steps import FIRST_STEPS
from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
settings.register_profile("few", parent=settings.get_profile("ci"), max_examples=5)  # for kernels as plain Python
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))

# a shell's job in the background ignores Ctrl-C, and the programs under test would inherit that
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish(session):
    """Who asks for comparisons with other packages (`-m peers`) wants them made: a skipped one is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.option.markexpr == "peers" and reporter is not None and reporter.stats.get("skipped"):
        why = "\n-m peers: some tests were skipped; install the packages that they compare with"
        reporter.write_line(why, red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


# -- a kernel cache that three processes have filled at once -----------------------------------------------------------


class FirstSteps(NamedTuple):
    """What each of the processes printed, and the folder that they have filled."""

    results: list
    compiled: list[int]
    folder: Path


@pytest.fixture(scope="session")
def first_steps(tmp_path_factory) -> FirstSteps:
    folder = tmp_path_factory.mktemp("kernels")
    env = {**os.environ, "FASTBP_CACHE_DIR": str(folder), "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-W", "error", "-c", FIRST_STEPS]
    running = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = [json.loads(process.communicate(timeout=600)[0]) for process in running]
    return FirstSteps([result for result, _ in printed], [compiled for _, compiled in printed], folder)


@pytest.fixture
def kernels(first_steps, tmp_path) -> Path:
    """A copy of that folder, for `FASTBP_CACHE_DIR`."""
    return Path(shutil.copytree(first_steps.folder, tmp_path / "kernels"))
