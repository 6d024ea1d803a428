"""What starting costs: importing fastbp beside importing numba, and `fastbp train` with a cold and a warm kernel cache.

    python bench/start_up.py [--runs 5] [--json start_up.json]

Every figure is the wall time of a whole fresh process, the interpreter's own start included. The imports alternate;
the cold run gets an empty kernel cache of its own, the warm runs reuse it.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds(command: list[str], **environment: str) -> float:
    """The wall time of a command that must succeed."""
    start = time.perf_counter()
    subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True, cwd=environment.get("TMPDIR"))
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="of each import and of the warm training (default: 5)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()

    imports = ("", "import numpy", "import numba", "import fastbp")
    times: dict[str, list[float]] = {code: [] for code in imports}
    for code in imports:
        seconds([sys.executable, "-c", code])  # the files into the page cache
    for _ in range(options.runs):
        for code in imports:
            times[code].append(seconds([sys.executable, "-c", code]))
    rows = {code or "python -c ''": values for code, values in times.items()}

    with tempfile.TemporaryDirectory() as folder:
        train = [sys.executable, "-m", "fastbp", "train"]
        place = {"FASTBP_CACHE_DIR": os.path.join(folder, "cache"), "TMPDIR": folder}
        rows["fastbp train, cold kernel cache"] = [seconds(train, **place)]
        rows["fastbp train, warm kernel cache"] = [seconds(train, **place) for _ in range(options.runs)]
        compiled = list(Path(folder, "cache").rglob("*.nbc"))
        size = sum(file.stat().st_size for file in compiled)

    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'':<34} {'best':>8} {'median':>8}  runs")
    for name, values in rows.items():
        print(f"{name:<34} {min(values):>6.2f} s {statistics.median(values):>6.2f} s  {len(values)}")
    print(f"kernels compiled by the cold run: {len(compiled)}, {size / 1e6:.1f} MB on disk")
    if options.json:
        options.json.write_text(json.dumps({"seconds": rows, "kernels": len(compiled), "bytes": size}, indent=2) + "\n")


if __name__ == "__main__":
    main()
