#!/usr/bin/env bash
# FRePo, whole clips as pixels. Settings: FRePo, arXiv 2206.00719 (ridge 1e-6; 10 networks of at most 100 steps by Adam
# at 3e-4; scored by AdamW at 1e-4, weight decay 5e-4, MSE, 1,001 epochs, one of them by --protocol paper), and of its
# port to video, S2D, arXiv 2312.00362 (512 real clips; Adam, labels at 1e-3; 10,000 iterations, rates down to a tenth).
# Not known is the port's rate of pixels: it is our default here. The port's networks have 1e-4 and a warm-up longer
# than they live, so they stay almost random; FRePo's rate is taken. How often to score a set is as in MTT.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"
usage 3 $# "bash sh/baseline/FRePo.sh GPU DATASET IPC [flags of distill_FRePo.py]    e.g. bash sh/baseline/FRePo.sh 0 miniUCF101 1"
GPU=$1 DATASET=$2 IPC=$3
shift 3
launch "$GPU" distill_FRePo.py --dataset "$DATASET" --ipc "$IPC" --optim adam --lr_labels 1e-3 --init real \
    --batch_real 512 --reg 1e-6 --pool 10 --pool_updates 100 --lr_pool 3e-4 --Iteration 10000 --decay_it 10000 \
    --eval_it 400 --num_eval 3 --epoch_eval_train 1000 --batch_train 500 --model ConvNet3D --eval_mode SS \
    --preload --protocol paper --precision fp32 --save_path "$ROOT/result" "$@"
