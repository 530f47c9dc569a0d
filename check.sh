#!/usr/bin/env bash
# Sets everything up in a new virtual environment (.venv-check) and runs the linter, the type checker and the tests.
set -euo pipefail
cd "$(dirname "$0")"
rm -rf .venv-check
python3 -m venv .venv-check
.venv-check/bin/pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt
# On two cores, which pip does not do, without what nothing imports; as for pip, a file that does not compile is no error.
.venv-check/bin/python -m compileall -qq -j 2 -x '/(tests?|substrates|fontTools|pygments)/' .venv-check/lib || true
.venv-check/bin/ruff check .
.venv-check/bin/mypy >.venv-check/mypy.txt &
mypy=$!
# Two files at a time, the longest first (tests/conftest.py): most of the time goes into tracing, which takes one core.
status=0
.venv-check/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@" || status=$?
wait "$mypy" || status=$?
cat .venv-check/mypy.txt
exit "$status"
