# Sourced by the studies: `study NAME "$@"` runs NAME.py with an interpreter that has what its data set needs.
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"

study() {   # study NAME DATASET ...
    local name=$1 file=requirements.txt
    shift
    [ "$1" != GameClips ] || file=requirements-games.txt
    if [ -n "$DRY_RUN" ]; then PYTHON=${PYTHON:-python}; else setup "$file"; fi
    exec "$PYTHON" "$ROOT/sh/study/$name.py" "$@" ${DRY_RUN:+--dry_run}
}
