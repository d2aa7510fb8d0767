#!/usr/bin/env bash
# The whole pipeline on MotionDigits, on a CPU, in some minutes:  bash sh/demo.sh [folder of the results]
# The same scripts and flags as for UCF101. Two lanes run side by side, each on half of the cores: small networks do not
# gain from more threads.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup requirements.txt
OUT=${1:-$ROOT/result/demo}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
cd "$ROOT"
CORES=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
export OMP_NUM_THREADS=$((CORES > 1 ? CORES / 2 : 1)) CUDA_VISIBLE_DEVICES=

SCORE=(--num_eval 3 --epoch_eval_train 100)
VIDEO=(--model ConvNet3DD2W16 "${SCORE[@]}")
run() { echo "== $*" >&2; "$PYTHON" "$@" --dataset MotionDigits --save_path "$OUT" --name demo --overwrite; }

baselines() {
    run evaluate.py --train_on full "${VIDEO[@]}" --epoch_eval_train 20 --batch_train 32
    run distill_coreset.py --method random --ipc 1 "${VIDEO[@]}"
    run distill_coreset.py --method herding --ipc 1 "${VIDEO[@]}" --train_epochs 10
    run distill_coreset.py --method k-center --ipc 1 "${VIDEO[@]}" \
        --pretrained_path "$OUT/herding/demo/network.safetensors"
    run distill_DM.py --ipc 1 "${VIDEO[@]}" --Iteration 200 --eval_it 200 --batch_real 16
}

distilled() {
    run distill_DC.py --ipc 2 --model ConvNetD3W32 "${SCORE[@]}" --Iteration 30 --eval_it 30 --inner_loop 10 --batch_real 16
    STATIC=$OUT/DC/demo/synset.safetensors
    run evaluate.py --synset "$STATIC" "${VIDEO[@]}"
    run distill_s2d_DM.py --vpc 2 --spc 2 --dpc 2 --path_static "$STATIC" --no_train_static "${VIDEO[@]}" \
        --Iteration 300 --eval_it 300 --batch_real 16
}

echo "the baselines run beside the distillation; their progress is in $OUT/baselines.log" >&2
set -m      # the lane is a process group, which ends with this script
baselines > "$OUT/baselines.out" 2> "$OUT/baselines.log" & LANE=$!
set +m
trap 'kill -- -$LANE 2>/dev/null || true' EXIT
distilled
wait $LANE || { tail -n 5 "$OUT/baselines.log" >&2; echo "a baseline failed: see $OUT/baselines.log" >&2; exit 1; }
trap - EXIT
cat "$OUT/baselines.out"
echo "picture: $OUT/S2D-DM/demo/preview.png (and preview.gif, curve.png beside it)"
"$PYTHON" summarize.py "$OUT" --json "$OUT/table.json"
