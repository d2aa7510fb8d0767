#!/usr/bin/env bash
# All benchmarks of plain loops against ours, at a size that two cores finish in half an hour, in each precision that
# they have.  bash sh/bench.sh [flags]
# On a GPU at the published sizes:  bash sh/bench.sh --size miniUCF101 --device cuda
# The JSON lines go to benchmarks/results/latest.jsonl.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup requirements.txt
cd "$ROOT"
RESULTS=benchmarks/results/latest.jsonl
mkdir -p benchmarks/results
: > "$RESULTS"
bench() {
    echo "== $*" >&2
    "$PYTHON" "benchmarks/$@" | tee >(grep '^{' >> "$RESULTS") | grep -v '^{'
}
bench loading.py --repeats 3
bench loading.py --repeats 3 --stored ucf
PRECISIONS=(auto)
# where a processor has bfloat16, as on one without it too
if [ $# -eq 0 ] && "$PYTHON" -c 'import sys, torch; from distill_utils.device import precision_name
sys.exit(precision_name("auto", torch.device("cpu")) == "fp32")'; then PRECISIONS+=(fp32); fi
for precision in "${PRECISIONS[@]}"; do
    for name in dm_step eval_epoch test_pass buffer_epoch; do bench "$name.py" --precision "$precision" "$@"; done
    # few synthetic clips, as published
    [ $# -gt 0 ] || bench dm_step.py --precision "$precision" --size ConvNet3D,10,16,64,32,1 --repeats 2
done
for name in frepo_step keyframes_step store_step; do      # MotionDigits' sizes
    if [ $# -gt 0 ]; then bench "$name.py" "$@"; else bench "$name.py" --size ConvNet3DD2W16,10,8,32,64,1; fi
done
if [ $# -gt 0 ]; then
    bench mtt_step.py "$@" --steps 2 5 10
else
    bench mtt_step.py --threads 1
    bench mtt_step.py --threads 2 --steps 10
fi
if [[ " $* " == *" --device cuda "* ]]; then
    bench mtt_step.py "$@" --size ConvNet3D,50,16,112,1,5 --batch 128 --steps 5     # MTT+S2D at 5 clips a class, as published
fi
