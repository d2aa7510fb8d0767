# Sourced by the launchers. `launch GPUS SCRIPT ARGUMENT...` runs a script of the repository on the CUDA devices GPUS, such
# as 0 or 0,1,2,3, or on the CPU where GPUS is cpu. Where CUDA_VISIBLE_DEVICES is set, as in a job of SLURM, the numbers
# count within it. `launch_dynamic` is the same for the dynamic stage: it starts from the static memory that sh/static/DC.sh
# made, unless --path_static or --static_init says otherwise. DRY_RUN=1 prints the command in place of running it.
# With DIST=torchrun each GPU has a process of its own, a rank; on the CPU there are RANKS of them, 2 if not given. They make
# the same set (docs/speed.md).
# Launchers run anywhere: results and experts go to result/ and buffers/ of the repository, if no flag says otherwise.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

usage() {   # usage NEEDED GIVEN TEXT: prints the text and ends unless at least NEEDED arguments were GIVEN
    [ "$2" -ge "$1" ] && return
    echo "usage: $3" >&2
    exit 2
}

find_any_python() {
    find_python requirements.txt || {
        echo "note: neither the active Python nor $ROOT/.venv satisfies requirements.txt; pip install -r $ROOT/requirements.txt" >&2
        PYTHON=python3
    }
}

visible_devices() {     # visible_devices GPUS: what CUDA_VISIBLE_DEVICES is to be for a run on them
    local IFS=, number entry visible=() chosen=()
    if [ -z "${CUDA_VISIBLE_DEVICES+set}" ]; then echo "$1"; return; fi
    for entry in ${CUDA_VISIBLE_DEVICES// /}; do
        [[ "$entry" == -* || -z "$entry" ]] && break    # CUDA reads no further than a negative number, or nothing
        visible+=("$entry")
    done
    for number in $1; do
        [ "${#number}" -lt 10 ] && number=$((10#$number))       # what is longer is no number of bash
        if [ "${#number}" -ge 10 ] || [ "$number" -ge "${#visible[@]}" ]; then
            echo "GPUS $1 asks for device $number, counted from 0, but CUDA_VISIBLE_DEVICES is '$CUDA_VISIBLE_DEVICES'," \
                "which shows ${#visible[@]}: give smaller numbers or cpu, or unset CUDA_VISIBLE_DEVICES" >&2
            return 2
        fi
        chosen+=("${visible[$number]}")
    done
    echo "${chosen[*]}"
}

launch() {
    local gpus=$1 script=$2 command ranks=()
    shift 2
    find_any_python
    case "${DIST:-}" in
        "") ;;
        torchrun)
            local devices=${gpus//[^,]/}
            local count=$((${#devices} + 1))
            [ "$gpus" != cpu ] || count=${RANKS:-2}
            [[ "$count" =~ ^[1-9][0-9]{0,4}$ ]] || { echo "RANKS must be a number of processes, not '$RANKS'" >&2; exit 2; }
            ranks=(-m torch.distributed.run --standalone --nproc_per_node "$count") ;;
        *) echo "DIST must be torchrun, or not set, not '$DIST'" >&2; exit 2 ;;
    esac
    command=("$PYTHON" ${ranks[@]+"${ranks[@]}"} "$ROOT/$script" --buffer_path "$ROOT/buffers" "$@")
    case "$gpus" in
        cpu) command=(env CUDA_VISIBLE_DEVICES= "${command[@]}" --device cpu) ;;
        *[!0-9,]* | "" | ,* | *, | *,,*) echo "GPUS must be cpu or numbers such as 0 or 0,1,2,3, not '$gpus'" >&2; exit 2 ;;
        *)
            gpus=$(visible_devices "$gpus") || exit 2
            command=(env "CUDA_VISIBLE_DEVICES=$gpus" "${command[@]}" --device cuda) ;;
    esac
    if [ -n "$DRY_RUN" ]; then printf '%q ' "${command[@]}"; echo; exit 0; fi
    exec "${command[@]}"
}

launch_dynamic() {
    local static
    find_any_python
    static=$("$PYTHON" "$ROOT/sh/static_memory.py" "$@") || exit 1
    launch "$@" ${static:+--path_static "$static"}
}
