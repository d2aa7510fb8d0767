#!/usr/bin/env bash
# The whole pipeline on MotionDigits, on a CPU:  bash sh/demo.sh [--full] [folder of the results]
# The same scripts and flags as for UCF101. In some minutes one row for each method but MTT; --full, in half an hour, adds
# experts, MTT on pixels and on static + dynamic, DSA, five times the clips and a second seed. FIRST_SEED=2: seeds 2 (and 3)
# in place of 0 (and 1). Two lanes run side by side, each on half of the cores: small networks do not gain from more threads.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
FULL=
[ "${1:-}" = --full ] && { FULL=1; shift; }
setup requirements.txt
OUT=${1:-$ROOT/result/demo${FULL:+_full}}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
cd "$ROOT"
CORES=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
export OMP_NUM_THREADS=$((CORES > 1 ? CORES / 2 : 1)) CUDA_VISIBLE_DEVICES=

SCORE=(--num_eval 3 --batch_train 32)
VIDEO=(--model ConvNet3DD2W16 "${SCORE[@]}")
run() { echo "== $*" >&2; "$PYTHON" "$@" --dataset MotionDigits; }
named() { # EPOCHS: a set of 20 clips makes one step an epoch, one of 100 clips four; both need some hundred steps
    run "$1" --epoch_eval_train "$EPOCHS" "${@:2}" --save_path "$OUT" --seed "$SEED" --name "${CLIPS}_seed$SEED" --overwrite
}

experts() { # for all seeds; a lane that finds them half made makes the other half
    run buffer.py --model ConvNet3DD2W16 --num_experts 10 --train_epochs 27 --max_start_epoch 24 --expert_epochs 4 \
        --lr_teacher 0.1 --batch_train 128 --buffer_path "$OUT/buffers"
}
# CLIPS: what is stored fits into the bytes of so many real clips a class; static + dynamic makes two of each
coresets() {
    local features=(--train_epochs 10)
    [ "$CLIPS" = 1 ] || features=(--pretrained_path "$OUT/herding/1_seed$SEED/network.safetensors")
    named distill_coreset.py --method random --ipc "$CLIPS" "${VIDEO[@]}"
    named distill_coreset.py --method herding --ipc "$CLIPS" "${VIDEO[@]}" "${features[@]}"
    named distill_coreset.py --method k-center --ipc "$CLIPS" "${VIDEO[@]}" \
        --pretrained_path "$OUT/herding/1_seed$SEED/network.safetensors"
}
full() { CLIPS=all EPOCHS=20 named evaluate.py --train_on full "${VIDEO[@]}"; }
DM=(--batch_real 16 --eval_it 1000)
# students at half of the experts' rate: the few synthetic clips are steeper, and at the same rate some students diverge
MTT=(--buffer_path "$OUT/buffers" --expert_epochs 4 --lr_teacher 0.05 --grad_clip 1 --batch_syn 20 --eval_it 1000)
pixels_DM() { named distill_DM.py --ipc "$CLIPS" "${VIDEO[@]}" --Iteration 200 "${DM[@]}"; }
pixels_MTT() { named distill_MTT.py --ipc "$CLIPS" "${VIDEO[@]}" --Iteration 60 "${MTT[@]}" --max_start_epoch "$STARTS"; }
static() {
    named distill_DC.py --ipc $((2 * CLIPS)) --model ConvNetD3W32 "${SCORE[@]}" --Iteration $((30 / CLIPS)) --eval_it 30 \
        --outer_loop 2 --inner_loop 10 --batch_real 16
    IMAGES=$OUT/DC/${CLIPS}_seed$SEED/synset.safetensors
    S2D=(--vpc $((2 * CLIPS)) --spc $((2 * CLIPS)) --dpc $((2 * CLIPS)) --path_static "$IMAGES" --no_train_static)
    named evaluate.py --synset "$IMAGES" "${VIDEO[@]}"
}
s2d_DM() { named distill_s2d_DM.py "${S2D[@]}" "${VIDEO[@]}" --Iteration 300 "${RATES[@]}" "${DM[@]}"; }
s2d_MTT() {
    named distill_s2d_MTT.py "${S2D[@]}" "${VIDEO[@]}" --Iteration 60 "${RATES[@]}" "${MTT[@]}" --max_start_epoch "$STARTS" "$@"
}

FIRST=${FIRST_SEED:-0}
short_1() { SEED=$FIRST CLIPS=1 EPOCHS=300; full; coresets; pixels_DM; }
short_2() { SEED=$FIRST CLIPS=1 EPOCHS=300 RATES=(--optim adam); static; s2d_DM; }
full_lane() {
    SEED=$1
    experts
    [ "$SEED" != "$FIRST" ] || full
    for CLIPS in 1 5; do
        # static + dynamic sets of 5 start near what all real clips reach: small steps, and experts that know more
        if [ "$CLIPS" = 1 ]; then EPOCHS=300 STARTS=12 RATES=(--optim adam)
        else EPOCHS=100 STARTS=24 RATES=(--optim adam --lr_dynamic 0.004 --lr_hal 0.001); fi
        coresets; pixels_DM; pixels_MTT; static; s2d_DM; s2d_MTT
        if [ "$CLIPS" = 1 ]; then
            CLIPS=1_DSA s2d_MTT --dsa_strategy color_crop_cutout_flip_scale_rotate
        fi
    done
}
full_1() { full_lane "$FIRST"; }
full_2() { full_lane $((FIRST + 1)); }

lane=${FULL:+full}
lane=${lane:-short}
echo "a second lane runs beside this one; its progress is in $OUT/lane.log" >&2
set -m      # the lane is a process group, which ends with this script
"${lane}_1" > "$OUT/lane.out" 2> "$OUT/lane.log" & LANE=$!
set +m
trap 'kill -- -$LANE 2>/dev/null || true' EXIT
"${lane}_2"
wait $LANE || { tail -n 5 "$OUT/lane.log" >&2; echo "the second lane failed: see $OUT/lane.log" >&2; exit 1; }
trap - EXIT
cat "$OUT/lane.out"
echo "picture: $OUT/S2D-DM/1_seed$FIRST/preview.png (and preview.gif, curve.png beside it)"
"$PYTHON" summarize.py "$OUT" --json "$OUT/table.json"
