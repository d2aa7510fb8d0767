#!/usr/bin/env bash
# FRePo+S2D, 5 clips per class: one static image and one dynamic memory each. Settings: S2D, arXiv 2312.00362 (LR_HAL
# 1e-3), and FRePo, arXiv 2206.00719, as sh/baseline/FRePo.sh says. LR_DYNAMIC is not known: 0.02 is our default.
# The static memory is made by: bash sh/static/DC.sh GPU DATASET 5
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"
usage 4 $# "bash sh/s2d/s2d_FRePo_ms_5.sh GPUS DATASET LR_DYNAMIC LR_HAL [flags of distill_s2d_FRePo.py]    e.g. bash sh/s2d/s2d_FRePo_ms_5.sh 0 miniUCF101 0.02 1e-3"
GPUS=$1 DATASET=$2 LR_DYNAMIC=$3 LR_HAL=$4
shift 4
launch_dynamic "$GPUS" distill_s2d_FRePo.py --dataset "$DATASET" --vpc 5 --spc 5 --dpc 5 --optim adam \
    --lr_dynamic "$LR_DYNAMIC" --lr_hal "$LR_HAL" --lr_labels 1e-3 --no_train_static --hal_init published \
    --dynamic_init noise --batch_real 512 --reg 1e-6 --pool 10 --pool_updates 100 --lr_pool 3e-4 \
    --Iteration 10000 --decay_it 10000 --eval_it 400 --num_eval 3 --epoch_eval_train 1000 --batch_train 500 \
    --model ConvNet3D --eval_mode SS \
    --preload --protocol paper --precision fp32 --save_path "$ROOT/result" "$@"
