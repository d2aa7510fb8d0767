#!/usr/bin/env bash
# Everything that waits for a GPU, in one call of under ten minutes: tests marked cuda, and the benchmarks at the published
# size, with peak memory.  bash sh/gpu.sh
#   bash sh/gpu.sh --device cpu   the same at toy size, to see that this script works: toy.jsonl
# The JSON lines go to benchmarks/results/<device>.jsonl, or to the folder OUT. The active Python needs torch, torchvision,
# numpy, scipy, pillow, safetensors and tqdm; tests are run where it has pytest too. A step that fails is told, and the
# others go on. DRY_RUN=1 prints the commands.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ "${DRY_RUN:-0}" != 0 ] || DRY_RUN=
PYTHON=${PYTHON:-python3}
case "$*" in
    "" | "--device cuda") DEVICE=cuda SIZE=(--size miniUCF101) MTT=(--size ConvNet3D,50,16,112,1,5 --batch 128 --steps 5) ;;
    "--device cpu")
        DEVICE=cpu SIZE=(--size ConvNet3DD2W16,3,4,16,4,1 --repeats 1)
        MTT=(--size ConvNet3DD2W16,3,4,16,1,2 --batch 4 --steps 2 --repeats 1) ;;
    *) echo "usage: bash sh/gpu.sh [--device cpu]" >&2; exit 2 ;;
esac
OUT=${OUT:-benchmarks/results}
NAME=toy
if [ $DEVICE = cuda ] && [ -z "$DRY_RUN" ]; then
    NAME=$("$PYTHON" -c 'import re, torch; print(re.sub(r"\W+", "-", torch.cuda.get_device_name()).lower())') || exit 1
fi
FAILED=()
DEADLINE=570    # seconds from the start, of which each step may have what is left
step() {
    if [ -n "$DRY_RUN" ]; then printf '%q ' "$@"; echo; return; fi
    echo "== $*" >&2
    timeout $((DEADLINE > SECONDS ? DEADLINE - SECONDS : 1)) "$@" > "$OUT/.step" || FAILED+=("$* (status $?)")
    grep '^{' "$OUT/.step" >> "$OUT/$NAME.jsonl"
    grep -v '^{' "$OUT/.step"
}
[ -n "$DRY_RUN" ] || { mkdir -p "$OUT"; : > "$OUT/$NAME.jsonl"; }
TESTS=(tests/test_device.py tests/test_networks.py)
"$PYTHON" -c 'import kornia' 2>/dev/null && TESTS+=(tests/test_augment.py)      # which needs it
if "$PYTHON" -c 'import pytest' 2>/dev/null; then
    step "$PYTHON" -m pytest -q -m cuda "${TESTS[@]}"
else
    echo "pytest is not installed here: the tests marked cuda are not run" >&2
fi
step "$PYTHON" benchmarks/dm_step.py "${SIZE[@]}" --device $DEVICE
step "$PYTHON" benchmarks/mtt_step.py "${MTT[@]}" --device $DEVICE
for name in eval_epoch frepo_step buffer_epoch; do
    step "$PYTHON" "benchmarks/$name.py" "${SIZE[@]}" --device $DEVICE
done
rm -f "$OUT/.step"
if [ ${#FAILED[@]} -gt 0 ]; then printf 'failed: %s\n' "${FAILED[@]}" >&2; exit 1; fi
[ -n "$DRY_RUN" ] || echo "figures: $OUT/$NAME.jsonl"
