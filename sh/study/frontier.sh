#!/usr/bin/env bash
# Accuracy over bytes and over clips, of real clips and of distilled sets in several stores.  frontier.sh DATASET [flags]
#
#   bash sh/study/methods.sh MotionDigits 1 --search    chooses the settings, unless sh/study/chosen/ has them
#   bash sh/study/frontier.sh MotionDigits              table and figure; go on with the same command
#   bash sh/study/frontier.sh MotionDigits --seeds 20 21 22 --rows FRePo --stores h264:36 --most 4    a part of it anew
#   DRY_RUN=1 bash sh/study/frontier.sh MotionDigits    prints the commands, and runs none
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
[ $# -ge 1 ] || { echo "usage: bash sh/study/frontier.sh DATASET [--out FOLDER] [--data_path FOLDER]" \
    "[--seeds N N ...] [--rows ROW ...] [--stores STORE ...] [--most N]" >&2; exit 2; }
study frontier "$@"
