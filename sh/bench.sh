#!/usr/bin/env bash
# All benchmarks of plain loops against ours, at a size that two cores finish in a quarter of an hour.  bash sh/bench.sh [flags]
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
for name in dm_step eval_epoch test_pass buffer_epoch; do bench "$name.py" "$@"; done
[ $# -gt 0 ] || bench dm_step.py --size ConvNet3D,10,16,64,32,1 --repeats 2    # few synthetic clips, as published
for name in frepo_step keyframes_step store_step; do      # MotionDigits' sizes
    if [ $# -gt 0 ]; then bench "$name.py" "$@"; else bench "$name.py" --size ConvNet3DD2W16,10,8,32,64,1; fi
done
if [ $# -gt 0 ]; then bench mtt_step.py "$@" --steps 2 5 10; else bench mtt_step.py --threads 1; fi
if [[ " $* " == *" --device cuda "* ]]; then
    bench mtt_step.py "$@" --size ConvNet3D,50,16,112,1,5 --batch 128 --steps 5     # MTT+S2D at 5 clips a class, as published
fi
