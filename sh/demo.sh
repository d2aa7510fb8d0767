#!/usr/bin/env bash
# The whole pipeline on MotionDigits, on a CPU, by the same scripts and flags as for UCF101.
#
#   bash sh/demo.sh [folder of the results]            a row for each method but trajectory matching; some minutes
#   bash sh/demo.sh --full [folder of the results]     adds experts, MTT, DSA, five times the clips and a second seed
#   DRY_RUN=1 bash sh/demo.sh [--full]                 prints the commands in their order, and runs none
#   FIRST_SEED=2 bash sh/demo.sh [--full]              seed 2 (and 3) in place of 0 (and 1)
#
# Two lanes run side by side, each on half of the cores: small networks do not gain from more threads. The functions below
# are the steps of a lane; the lanes stand at the end.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
FULL= NAME=
[ "${1:-}" = --full ] && { FULL=1; shift; }
case "${1:-}$#" in
    -*) echo "unknown flag $1: bash sh/demo.sh [--full] [folder of the results]" >&2; exit 2 ;;
    *[!01]) echo "one folder of the results, please: bash sh/demo.sh [--full] [folder]" >&2; exit 2 ;;
esac
if [ -n "$DRY_RUN" ]; then PYTHON=python; else setup requirements.txt; fi
OUT=${1:-$ROOT/result/demo${FULL:+_full}}
[ -n "$DRY_RUN" ] || { mkdir -p "$OUT"; OUT=$(cd "$OUT" && pwd); }
cd "$ROOT"
CORES=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
export OMP_NUM_THREADS=$((CORES > 1 ? CORES / 2 : 1)) CUDA_VISIBLE_DEVICES=

# ---- one command ----

run() {         # run SCRIPT FLAGS...
    if [ -n "$DRY_RUN" ]; then printf '%q ' "$PYTHON" "$@" --dataset MotionDigits; echo; return; fi
    echo "== $*" >&2
    "$PYTHON" "$@" --dataset MotionDigits
}
named() {       # the same for a script that leaves a result, scored by 3 networks after $EPOCHS epochs
    run "$@" --num_eval 3 --batch_train 32 --epoch_eval_train "$EPOCHS" --save_path "$OUT" --seed "$SEED" \
        --name "${NAME:-$CLIPS}_seed$SEED" --overwrite
}

# ---- the steps ----
# CLIPS: a set takes no more bytes than so many real clips a class; a static + dynamic set makes two clips of each.
# EPOCHS: a set of 20 clips makes one step an epoch, one of 100 clips four; both need some hundred steps.

VIDEO=(--model ConvNet3DD2W16)
REAL=(--batch_real 16 --eval_it 1000)           # real clips a class; the set is scored at its start and its end

all_real_clips() { NAME=all EPOCHS=$FULL_EPOCHS named evaluate.py --train_on full "${VIDEO[@]}"; }
selections() {
    local network=$OUT/herding/1_seed$SEED/network.safetensors features=(--train_epochs 10)
    named distill_coreset.py --method random --ipc "$CLIPS" "${VIDEO[@]}"
    [ "$CLIPS" = 1 ] || features=(--pretrained_path "$network")     # that of CLIPS=1, whose features choose
    named distill_coreset.py --method herding --ipc "$CLIPS" "${VIDEO[@]}" "${features[@]}"
    named distill_coreset.py --method k-center --ipc "$CLIPS" "${VIDEO[@]}" --pretrained_path "$network"
}
soft_labels() {                                 # random clips with the labels of two experts
    run buffer.py "${VIDEO[@]}" --num_experts 2 --train_epochs 16 --max_start_epoch 1 --expert_epochs 16 --lr_teacher 0.01 \
        --mom 0.9 --batch_train 32 --buffer_path "$OUT/teacher"
    NAME=${CLIPS}_soft named distill_coreset.py --method random --ipc "$CLIPS" "${VIDEO[@]}" --labels teacher --teacher 2 \
        --buffer_path "$OUT/teacher"
}
pixels_FRePo() {
    named distill_FRePo.py --ipc "$CLIPS" "${VIDEO[@]}" --Iteration 200 --batch_real 128 --eval_it 1000 --lr_net 0.001
}
pixels_DM() { named distill_DM.py --ipc "$CLIPS" "${VIDEO[@]}" --Iteration 200 "${REAL[@]}"; }
static_images() {                               # the static stage; then its images as clips that stand still
    local images=$OUT/DC/${CLIPS}_seed$SEED/synset.safetensors
    named distill_DC.py --ipc $((2 * CLIPS)) --model ConvNetD3W32 --Iteration $((30 / CLIPS)) --eval_it 30 \
        --outer_loop 2 --inner_loop 10 --batch_real 16
    named evaluate.py --synset "$images" "${VIDEO[@]}"
    S2D=(--vpc $((2 * CLIPS)) --spc $((2 * CLIPS)) --dpc $((2 * CLIPS)) --path_static "$images" --no_train_static "${RATES[@]}")
}
s2d_DM() { named distill_s2d_DM.py "${S2D[@]}" "${VIDEO[@]}" --Iteration 300 "${REAL[@]}"; }

# only with --full; students at half of the experts' rate, because a few synthetic clips give steeper steps
experts() {                                     # for all seeds: a lane that finds half of them makes the others
    run buffer.py "${VIDEO[@]}" --num_experts 10 --train_epochs 27 --max_start_epoch 24 --expert_epochs 4 --lr_teacher 0.1 \
        --batch_train 128 --buffer_path "$OUT/buffers"
}
STUDENTS=(--Iteration 60 --buffer_path "$OUT/buffers" --expert_epochs 4 --lr_teacher 0.05 --grad_clip 1 --batch_syn 20
    --eval_it 1000)
pixels_MTT() { named distill_MTT.py --ipc "$CLIPS" "${VIDEO[@]}" "${STUDENTS[@]}" --max_start_epoch "$STARTS"; }
s2d_MTT() { named distill_s2d_MTT.py "${S2D[@]}" "${VIDEO[@]}" "${STUDENTS[@]}" --max_start_epoch "$STARTS" "$@"; }
s2d_MTT_with_DSA() { NAME=${CLIPS}_DSA s2d_MTT --dsa_strategy color_crop_cutout_flip_scale_rotate; }

# ---- the lanes ----

FIRST=${FIRST_SEED:-0} SEED=${FIRST_SEED:-0} CLIPS=1 EPOCHS=160 FULL_EPOCHS=16 RATES=(--optim adam)
short_1() { all_real_clips; selections; soft_labels; pixels_FRePo; }
short_2() { static_images; s2d_DM; pixels_DM; }
full_1() { full_lane "$FIRST"; }
full_2() { full_lane $((FIRST + 1)); }
full_lane() {
    SEED=$1 FULL_EPOCHS=20
    experts
    [ "$SEED" != "$FIRST" ] || all_real_clips
    CLIPS=1 EPOCHS=300 STARTS=12
    selections; pixels_DM; pixels_MTT; static_images; s2d_DM; s2d_MTT; s2d_MTT_with_DSA
    # static + dynamic sets of 5 start near what all real clips reach: small steps, and experts that know more
    CLIPS=5 EPOCHS=100 STARTS=24 RATES=(--optim adam --lr_dynamic 0.004 --lr_hal 0.001)
    selections; pixels_DM; pixels_MTT; static_images; s2d_DM; s2d_MTT
}

lane=${FULL:+full}
lane=${lane:-short}
if [ -n "$DRY_RUN" ]; then
    for number in 1 2; do echo "# lane $number"; "${lane}_$number"; done
    exit 0
fi
"$PYTHON" - "${FULL:+full}" >&2 <<'PY'
# how long it will take, from the time of some training steps in float32: found by runs with and without bfloat16
import sys, time
import torch, utils
network = utils.get_network("ConvNet3DD2W16", utils.get_spec("MotionDigits"))
step = utils.make_step(network, torch.optim.SGD(network.parameters(), lr=0.01))
clips, labels = torch.randn(32, 8, 3, 32, 32), torch.arange(32) % 10
for count in (2, 8):
    begin = time.perf_counter()
    for _ in range(count):
        step(clips, labels, labels)
seconds = 30 + (time.perf_counter() - begin) / 8 * (60000 if sys.argv[1] else 2400)
print(f"this will take about {-(-seconds // 60):.0f} minutes on this machine")
PY
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
"$PYTHON" report.py "$OUT" --out "$OUT/report.html"
echo "page: $OUT/report.html (open it in a browser: all sets, moving beside real clips)"
"$PYTHON" summarize.py "$OUT" --json "$OUT/table.json"
