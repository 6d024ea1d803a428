#!/usr/bin/env bash
# Run once, when Gradescope builds the autograder's image: Python 3.11 or newer, and fastbp in a virtual environment.
set -euo pipefail
root=${AUTOGRADER:-/autograder}

apt-get update
apt-get install -y python3 python3-venv
python=python3
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then # Ubuntu 22.04's is 3.10
  apt-get install -y python3.11 python3.11-venv
  python=python3.11
fi
"$python" -m venv "$root/venv"

# the wheel in the zip if there is one, the released package otherwise; README.md says how to install from a git repository
shopt -s nullglob
wheels=("$root"/source/fastbp-*.whl)
"$root/venv/bin/pip" install "${wheels[0]:-fastbp}"

# an empty submission: what is broken shows here, not with the first student's
assignment=eecs598-hw1
[ -f "$root/source/assignment.py" ] && assignment=$root/source/assignment.py
touch "$root/empty.py"
"$root/venv/bin/fastbp" grade "$root/empty.py" --assignment "$assignment"
