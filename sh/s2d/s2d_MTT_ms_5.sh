#!/usr/bin/env bash
# MTT+S2D, 5 clips per class. Settings: S2D, arXiv 2312.00362 (miniUCF101: LR_DYNAMIC 1e4, LR_HAL 1e-3; 128 clips a step,
# and in batches of 128 where networks that score the set are trained).
# The experts are made by: bash sh/baseline/buffer.sh GPU DATASET, the static memory by: bash sh/static/DC.sh GPU DATASET 10
# The rate is learned as at 1 clip per class; the authors' own script leaves --train_lr out.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"
usage 4 $# "bash sh/s2d/s2d_MTT_ms_5.sh GPUS DATASET LR_DYNAMIC LR_HAL [flags of distill_s2d_MTT.py]    e.g. bash sh/s2d/s2d_MTT_ms_5.sh 0 miniUCF101 1e4 1e-3"
GPUS=$1 DATASET=$2 LR_DYNAMIC=$3 LR_HAL=$4
shift 4
launch_dynamic "$GPUS" distill_s2d_MTT.py --dataset "$DATASET" --vpc 5 --spc 10 --dpc 10 \
    --lr_dynamic "$LR_DYNAMIC" --lr_hal "$LR_HAL" --no_train_static --hal_init published --dynamic_init noise \
    --momentum 0.95 --syn_steps 5 --batch_syn 128 --expert_epochs 1 \
    --max_start_epoch 10 --lr_teacher 0.01 --train_lr --lr_lr 1e-5 --min_lr 1e-3 --Iteration 10000 --eval_it 200 \
    --num_eval 3 --epoch_eval_train 500 --lr_net 0.01 --batch_train 128 --model ConvNet3D --eval_mode SS \
    --preload --protocol paper --precision fp32 --save_path "$ROOT/result" "$@"
