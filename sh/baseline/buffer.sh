#!/usr/bin/env bash
# Experts for MTT and MTT+S2D. Settings: S2D, arXiv 2312.00362: 30 experts, 50 epochs, rate 0.01, no momentum, no decay. Only
# the snapshots that --max_start_epoch 10 and --expert_epochs 1 can reach are trained and kept; --keep_epochs all keeps all.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"
usage 2 $# "bash sh/baseline/buffer.sh GPU DATASET [flags of buffer.py]    e.g. bash sh/baseline/buffer.sh 0 miniUCF101"
GPU=$1 DATASET=$2
shift 2
launch "$GPU" buffer.py --dataset "$DATASET" --model ConvNet3D --num_experts 30 --train_epochs 50 --lr_teacher 0.01 \
    --mom 0 --l2 0 --batch_train 256 --max_start_epoch 10 --expert_epochs 1 \
    --preload --protocol paper --precision fp32 "$@"
