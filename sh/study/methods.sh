#!/usr/bin/env bash
# One table of methods on a small data set, at equal clips; go on with the same command.  methods.sh DATASET CLIPS [flags]
#
#   bash sh/study/methods.sh MotionDigits 1             or AppearanceDigits, GameClips; some hours on two cores
#   bash sh/study/methods.sh MotionDigits 1 --search    chooses the settings anew, on held-back training clips
#   DRY_RUN=1 bash sh/study/methods.sh MotionDigits 1   prints the commands, and runs none
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
[ $# -ge 2 ] || { echo "usage: bash sh/study/methods.sh DATASET CLIPS [--search] [--out FOLDER]" >&2; exit 2; }
FILE=requirements.txt
[ "$1" != GameClips ] || FILE=requirements-games.txt
if [ -n "$DRY_RUN" ]; then PYTHON=python; else setup "$FILE"; fi
exec "$PYTHON" "$ROOT/sh/study/methods.py" "$@" ${DRY_RUN:+--dry_run}
