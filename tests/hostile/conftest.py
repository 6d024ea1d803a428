"""Submissions that misbehave, for test_sandbox.py. Only the sandbox may import them: pytest must
not look for doctests here."""

collect_ignore_glob = ["*.py"]
