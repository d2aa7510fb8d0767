#!/usr/bin/env bash
# DM+S2D, 5 clips per class. Settings: S2D, arXiv 2312.00362 (miniUCF101: LR_DYNAMIC 1e3, LR_HAL 1e-6).
# The static memory is made by: bash sh/static/DC.sh GPU DATASET 10
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"
usage 4 $# "bash sh/s2d/s2d_DM_ms_5.sh GPUS DATASET LR_DYNAMIC LR_HAL [flags of distill_s2d_DM.py]    e.g. bash sh/s2d/s2d_DM_ms_5.sh 0,1,2,3 miniUCF101 1e3 1e-6"
GPUS=$1 DATASET=$2 LR_DYNAMIC=$3 LR_HAL=$4
shift 4
launch_dynamic "$GPUS" distill_s2d_DM.py --dataset "$DATASET" --vpc 5 --spc 10 --dpc 10 \
    --lr_dynamic "$LR_DYNAMIC" --lr_hal "$LR_HAL" --no_train_static --hal_init published --dynamic_init noise \
    --momentum 0.95 --batch_real 64 --Iteration 5000 \
    --eval_it 400 --startIt 400 --num_eval 3 --epoch_eval_train 500 --lr_net 0.01 --model ConvNet3D --eval_mode SS \
    --preload --protocol paper --precision fp32 --save_path "$ROOT/result" "$@"
