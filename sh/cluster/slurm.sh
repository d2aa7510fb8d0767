#!/usr/bin/env bash
# One run on one or several nodes of a SLURM cluster, a rank to each GPU.
#
#   sbatch --nodes 2 --gpus-per-node 4 sh/cluster/slurm.sh distill_s2d_DM.py --dataset Kinetics400 --vpc 1 --spc 2 --dpc 2 ...
#
# Two minutes before its time ends, or when it is preempted, the job saves, and is queued again; it then goes on where it
# was, as --resume is always given. DRY_RUN=1 prints the command of a node in place of running it. What depends on your
# cluster (partition, account, memory, time, modules) is given to sbatch, or written below.
#SBATCH --job-name=distill
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
set -euo pipefail
ROOT=${SLURM_SUBMIT_DIR:-$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)}      # SLURM runs a copy of this file
[ -f "$ROOT/sh/setup.sh" ] || { echo "start sbatch in the folder of the code, not in $ROOT" >&2; exit 2; }
source "$ROOT/sh/setup.sh"
[ $# -ge 1 ] || { echo "usage: sbatch sh/cluster/slurm.sh SCRIPT [flags of the script]" >&2; exit 2; }
find_python requirements.txt || { echo "no Python here satisfies $ROOT/requirements.txt: bash sh/test.sh makes one" >&2; exit 1; }
SCRIPT=$1
shift

NODES=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
FIRST=${NODES%%$'\n'*}
PORT=$((20000 + SLURM_JOB_ID % 20000))      # another for each job, should two share a node
RANKS=${SLURM_GPUS_ON_NODE:-${RANKS:-1}}
COMMAND=(srun "$PYTHON" -m torch.distributed.run --nnodes "$SLURM_NNODES" --nproc_per_node "$RANKS"
    --rdzv_backend c10d --rdzv_endpoint "$FIRST:$PORT" --rdzv_id "$SLURM_JOB_ID" --max_restarts 0
    "$ROOT/$SCRIPT" "$@" --resume)
if [ -n "$DRY_RUN" ]; then printf '%q ' "${COMMAND[@]}"; echo; exit 0; fi

STOPPED=
# srun hands SIGTERM on to torchrun, and that to its ranks, which save at the end of their step, within 30 seconds
trap 'STOPPED=1; kill -TERM "$STEP" 2>/dev/null || true' USR1 TERM
"${COMMAND[@]}" &
STEP=$!
STATUS=0
wait "$STEP" || STATUS=$?
if [ -n "$STOPPED" ]; then      # the wait was broken off: the ranks save now
    STATUS=0
    wait "$STEP" || STATUS=$?
fi
if [ -n "$STOPPED" ] && [ "$STATUS" != 0 ]; then
    echo "saved, and queued again: job $SLURM_JOB_ID goes on where it was" >&2
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$STATUS"
