#!/usr/bin/env bash
# Static stage: IPC still images per class by gradient matching (DC) on single frames, for --path_static of the dynamic stage.
# Settings: DC (arXiv 2006.05929): rate 0.1, momentum 0.5, 256 real images a class, 1000 iterations; ConvNetD4 at 112 pixels
# (S2D, arXiv 2312.00362). GPU: one device is used.
# Not known is how the published static memories were made. DC has numbers of loops for 1, 10, 20, 30, 40 and 50 images a
# class, and S2D's code for 5 too: --outer_loop 1 --inner_loop 1. For any other IPC, 2 among them, the numbers here are our
# own rule. The published memories were probably made one image at a time, each of another segment of the videos' time. The
# one trace of them says 3,000 iterations, ConvNetD4 and 1 image a class. The set of the last iteration is kept.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../launch.sh"
usage 3 $# "bash sh/static/DC.sh GPU DATASET IPC [flags of distill_DC.py, such as --outer_loop N --inner_loop N --Iteration N]    e.g. bash sh/static/DC.sh 0 miniUCF101 2"
GPU=$1 DATASET=$2 IPC=$3
shift 3
launch "$GPU" distill_DC.py --dataset "$DATASET" --ipc "$IPC" --model ConvNetD4 --init real --lr_img 0.1 --lr_net 0.01 \
    --batch_real 256 --Iteration 1000 --eval_it 500 --num_eval 5 --epoch_eval_train 300 \
    --protocol paper --precision fp32 --save_path "$ROOT/result" "$@"
