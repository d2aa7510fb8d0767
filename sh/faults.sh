#!/usr/bin/env bash
# A long campaign of faults on a CPU: every script is stopped at random moments, every kind of file loses a bit or its end,
# and what comes of it is counted.  bash sh/faults.sh [--kills N] [--damages N] [--seed N]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup requirements-test.txt
cd "$ROOT"
exec "$PYTHON" tests/faults.py "$@"
