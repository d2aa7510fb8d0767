#!/usr/bin/env bash
# DM, whole clips as pixels. Settings: S2D, arXiv 2312.00362 (miniUCF101, 1 clip per class: LR 30).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"
usage 4 $# "bash sh/baseline/DM.sh GPU DATASET LR IPC [flags of distill_DM.py]    e.g. bash sh/baseline/DM.sh 0 miniUCF101 30 1"
GPU=$1 DATASET=$2 LR=$3 IPC=$4
shift 4
launch "$GPU" distill_DM.py --dataset "$DATASET" --ipc "$IPC" --lr_img "$LR" --init real --momentum 0.5 --batch_real 64 \
    --Iteration 5000 --eval_it 500 --num_eval 5 --epoch_eval_train 500 --lr_net 0.01 --model ConvNet3D --eval_mode SS \
    --preload --protocol paper --precision fp32 --save_path "$ROOT/result" "$@"
