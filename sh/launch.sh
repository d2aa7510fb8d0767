# Sourced by the launchers. `launch GPUS SCRIPT ARGUMENT...` runs a script of the repository on the CUDA devices GPUS, such
# as 0 or 0,1,2,3, or on the CPU where GPUS is cpu. DRY_RUN=1 prints the command in place of running it.
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

usage() {   # usage NEEDED GIVEN TEXT: prints the text and ends unless at least NEEDED arguments were GIVEN
    [ "$2" -ge "$1" ] && return
    echo "usage: $3" >&2
    exit 2
}

launch() {
    local gpus=$1 script=$2 command
    shift 2
    find_python requirements.txt || {
        echo "note: neither the active Python nor $ROOT/.venv satisfies requirements.txt; pip install -r $ROOT/requirements.txt" >&2
        PYTHON=python3
    }
    command=("$PYTHON" "$ROOT/$script" "$@")
    case "$gpus" in
        cpu) command=(env CUDA_VISIBLE_DEVICES= "${command[@]}" --device cpu) ;;
        *[!0-9,]* | "" | ,* | *, | *,,*) echo "GPUS must be cpu or numbers such as 0 or 0,1,2,3, not '$gpus'" >&2; exit 2 ;;
        *) command=(env "CUDA_VISIBLE_DEVICES=$gpus" "${command[@]}" --device cuda) ;;
    esac
    if [ -n "${DRY_RUN:-}" ]; then printf '%q ' "${command[@]}"; echo; exit 0; fi
    exec "${command[@]}"
}
