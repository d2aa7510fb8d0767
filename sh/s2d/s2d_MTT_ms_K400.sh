#!/usr/bin/env bash
# MTT+S2D, Kinetics-400, 1 clip per class. Settings: S2D, arXiv 2312.00362 (256 clips a step).
# The experts are made by: bash sh/baseline/buffer.sh GPU Kinetics400, the static memory by: bash sh/static/DC.sh GPU Kinetics400 2
# The rate is learned as for miniUCF101; the authors' own script leaves --train_lr out. A data set may stand after GPUS, as
# in earlier versions of this launcher.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"
USAGE="bash sh/s2d/s2d_MTT_ms_K400.sh GPUS LR_DYNAMIC LR_HAL [flags of distill_s2d_MTT.py]    e.g. bash sh/s2d/s2d_MTT_ms_K400.sh 0 1e4 1e-3"
usage 3 $# "$USAGE"
GPUS=$1 DATASET=Kinetics400
shift
case "$1" in
    *[!0-9.eE+-]*) DATASET=$1; shift; usage 2 $# "$USAGE" ;;    # no number, so a data set
esac
LR_DYNAMIC=$1 LR_HAL=$2
shift 2
launch_dynamic "$GPUS" distill_s2d_MTT.py --dataset "$DATASET" --vpc 1 --spc 2 --dpc 2 \
    --lr_dynamic "$LR_DYNAMIC" --lr_hal "$LR_HAL" --no_train_static --hal_init published --dynamic_init noise \
    --momentum 0.95 --syn_steps 10 --batch_syn 256 --expert_epochs 1 \
    --max_start_epoch 10 --lr_teacher 0.01 --train_lr --lr_lr 1e-5 --min_lr 1e-3 --Iteration 10000 --eval_it 1000 \
    --num_eval 3 --epoch_eval_train 500 --lr_net 0.01 --model ConvNet3D --eval_mode SS \
    --preload --protocol paper --precision fp32 --save_path "$ROOT/result" "$@"
