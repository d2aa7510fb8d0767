#!/usr/bin/env bash
# Lint and the whole test suite, in an environment that is set up if need be.  bash sh/test.sh [pytest arguments]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup requirements-test.txt
cd "$ROOT"
export OMP_NUM_THREADS=1   # a process a core, a file of tests at a time
"$PYTHON" -m ruff check .
exec "$PYTHON" -m pytest -n auto --maxprocesses 8 --dist loadfile "$@"
