#!/usr/bin/env bash
# Coreset baselines: METHOD is random, herding or k-center. Settings: S2D, arXiv 2312.00362: 3 networks, 500 epochs, rate
# 0.01. Features of herding and k-center: the network trained here for 50 epochs, as the experts are.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"
usage 4 $# "bash sh/baseline/coreset.sh GPU DATASET METHOD IPC [flags of distill_coreset.py]    e.g. bash sh/baseline/coreset.sh 0 miniUCF101 herding 1"
GPU=$1 DATASET=$2 METHOD=$3 IPC=$4
shift 4
FEATURES=(--train_epochs 50)
[ "$METHOD" = random ] && FEATURES=()
launch "$GPU" distill_coreset.py --dataset "$DATASET" --method "$METHOD" --ipc "$IPC" ${FEATURES[@]+"${FEATURES[@]}"} --model ConvNet3D \
    --eval_mode SS --num_eval 3 --epoch_eval_train 500 --lr_net 0.01 \
    --protocol paper --precision fp32 --save_path "$ROOT/result" "$@"
