#!/usr/bin/env bash
# The whole pipeline on MotionDigits, on a CPU, in some minutes:  bash sh/demo.sh [folder of the results]
# The same scripts and flags as for UCF101; the recipe of each row stands in its line.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$ROOT/sh/setup.sh"
setup requirements.txt
OUT=${1:-$ROOT/result/demo}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
cd "$ROOT"

COMMON=(--dataset MotionDigits --device cpu --save_path "$OUT" --name demo --overwrite)
SCORE=(--model ConvNet3DD2W16 --num_eval 3 --epoch_eval_train 120)
run() { echo "== $*" >&2; "$PYTHON" "$@" "${COMMON[@]}"; }

run evaluate.py --train_on full "${SCORE[@]}" --epoch_eval_train 20 --batch_train 32
run distill_coreset.py --method random --ipc 1 "${SCORE[@]}"
run distill_coreset.py --method herding --ipc 1 "${SCORE[@]}" --pretrained_path "$OUT/full/demo/network.safetensors"
run distill_coreset.py --method k-center --ipc 1 "${SCORE[@]}" --pretrained_path "$OUT/full/demo/network.safetensors"
