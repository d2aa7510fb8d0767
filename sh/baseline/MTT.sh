#!/usr/bin/env bash
# MTT, whole clips as pixels. Settings: S2D, arXiv 2312.00362 (miniUCF101, 1 clip per class: LR 1e5).
# The experts are made by: bash sh/baseline/buffer.sh GPU DATASET
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"
usage 4 $# "bash sh/baseline/MTT.sh GPU DATASET LR IPC [flags of distill_MTT.py]    e.g. bash sh/baseline/MTT.sh 0 miniUCF101 1e5 1"
GPU=$1 DATASET=$2 LR=$3 IPC=$4
shift 4
launch "$GPU" distill_MTT.py --dataset "$DATASET" --ipc "$IPC" --lr_img "$LR" --init real --momentum 0.5 \
    --syn_steps 10 --expert_epochs 1 --max_start_epoch 10 --lr_teacher 0.01 --train_lr --lr_lr 1e-5 --min_lr 1e-3 \
    --Iteration 8000 --eval_it 400 --num_eval 3 --epoch_eval_train 500 --lr_net 0.01 --model ConvNet3D --eval_mode SS \
    --preload --protocol paper --precision fp32 --save_path "$ROOT/result" "$@"
