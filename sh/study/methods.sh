#!/usr/bin/env bash
# One table of methods on a small data set, at equal clips; go on with the same command.  methods.sh DATASET CLIPS [flags]
#
#   bash sh/study/methods.sh MotionDigits 1             or AppearanceDigits, GameClips; some hours on two cores
#   bash sh/study/methods.sh MotionDigits 1 --search    chooses the settings anew, on held-back training clips
#   DRY_RUN=1 bash sh/study/methods.sh MotionDigits 1   prints the commands, and runs none
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
[ $# -ge 2 ] || { echo "usage: bash sh/study/methods.sh DATASET CLIPS [--search] [--out FOLDER]" >&2; exit 2; }
study methods "$@"
