#!/usr/bin/env bash
# PRISM: key frames that grow in number, matched by DM. Settings as far as they are known, PRISM, arXiv 2505.22564: first
# and last frame from noise, linear interpolation, growth in the middle 60 % of the iterations, SGD with momentum 0.95.
# Not known are its iterations, real batch and networks: they are DM's, as in sh/baseline/DM.sh. Not known is its rate:
# 3 is a guess, because DM's 30 at momentum 0.5 makes such steps at 0.95. Where no frame was added (preview.png frames key
# frames), lower it. One report says that PRISM matches gradients: distill_DC.py takes the same flags of the set.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"
usage 4 $# "bash sh/keyframes/PRISM.sh GPU DATASET LR IPC [flags of distill_DM.py]    e.g. bash sh/keyframes/PRISM.sh 0 miniUCF101 3 1"
GPU=$1 DATASET=$2 LR=$3 IPC=$4
shift 4
launch "$GPU" distill_DM.py --set keyframes --dataset "$DATASET" --ipc "$IPC" --lr_img "$LR" --n_syn 2 --grow \
    --grow_from 0.2 --grow_until 0.8 --init noise --momentum 0.95 --batch_real 64 \
    --Iteration 5000 --eval_it 500 --num_eval 5 --epoch_eval_train 500 --lr_net 0.01 --model ConvNet3D --eval_mode SS \
    --preload --protocol paper --precision fp32 --save_path "$ROOT/result" "$@"
