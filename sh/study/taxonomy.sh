#!/usr/bin/env bash
# How many frames a clip needs, and what lies between them: table and figure of one data set.  taxonomy.sh DATASET [flags]
#
#   bash sh/study/taxonomy.sh MotionDigits              or AppearanceDigits, GameClips; go on with the same command
#   DRY_RUN=1 bash sh/study/taxonomy.sh MotionDigits    prints the commands, and runs none
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
[ $# -ge 1 ] || { echo "usage: bash sh/study/taxonomy.sh DATASET [--out FOLDER] [--data_path FOLDER]" >&2; exit 2; }
study taxonomy "$@"
