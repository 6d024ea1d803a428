"""Hypothesis without deadlines (they would time the compiler), and the same examples on every run in CI."""

import os
import signal

from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
settings.register_profile("few", parent=settings.get_profile("ci"), max_examples=5)  # for kernels as plain Python
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's job in the background: the programs under test would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
