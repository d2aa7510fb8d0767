#!/usr/bin/env bash
# One run on one or several nodes of a SLURM cluster, a rank to each GPU.
#
#   sbatch --nodes 2 --gpus-per-node 4 sh/cluster/slurm.sh distill_s2d_DM.py --dataset Kinetics400 --vpc 1 --spc 2 --dpc 2 ...
#
# Two minutes before its time ends, or when it is preempted, the job saves, and is queued again; it then goes on where it
# was, as --resume is always given. Give a node enough CPUs for all of its GPUs. DRY_RUN=1 prints the command of a node
# in place of running it. What depends on your cluster (partition, account, memory, time, modules) is given to sbatch, or
# written below.
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

[ -n "${SLURM_JOB_ID:-}" ] || { echo "this is a job of SLURM: start it with sbatch" >&2; exit 2; }
NODES=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
FIRST=${NODES%%$'\n'*}
PORT=$((20000 + SLURM_JOB_ID % 20000))      # another for each job, should two share a node
RANKS=${SLURM_GPUS_ON_NODE:-${RANKS:-1}}
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}      # which srun does not take over by itself
COMMAND=(srun "$PYTHON" -m torch.distributed.run --nnodes "$SLURM_NNODES" --nproc_per_node "$RANKS"
    --rdzv_backend c10d --rdzv_endpoint "$FIRST:$PORT" --rdzv_id "$SLURM_JOB_ID" --max_restarts 0
    "$ROOT/$SCRIPT" "$@" --resume)
if [ -n "$DRY_RUN" ]; then printf '%q ' "${COMMAND[@]}"; echo; exit 0; fi

# Before the time ends Slurm sends USR1 to this script alone, which asks for the job to be queued again. When the job is
# preempted (and then queued again by Slurm) or cancelled, TERM comes. Either way the ranks get TERM, save at the end of
# their step, and leave; srun itself would kill them at a TERM.
STOPPED= SIGNALLED= STATUS=0
ask() { SIGNALLED=1; scancel --signal=TERM "$SLURM_JOB_ID" || true; }
trap 'STOPPED=1; ask' USR1
trap ask TERM
"${COMMAND[@]}" &
STEP=$!
while :; do
    CODE=0
    wait "$STEP" || CODE=$?
    [ "$CODE" = 127 ] || STATUS=$CODE       # 127: its status was asked for before
    [ -n "$SIGNALLED" ] || break            # a signal breaks off the wait
    SIGNALLED=
done
if [ -n "$STOPPED" ] && [ "$STATUS" != 0 ]; then
    echo "job $SLURM_JOB_ID is queued again, and goes on from its checkpoint" >&2
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$STATUS"
