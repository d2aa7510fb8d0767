# Sourced by the other scripts here: `find_python FILE` and `setup FILE` leave in $PYTHON an interpreter that satisfies the
# requirements FILE: the active one if it does, otherwise that of .venv beside the code, which `setup` makes, once.
[ "${DRY_RUN:-0}" != 0 ] || DRY_RUN=    # DRY_RUN=0 is no dry run
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

satisfies() {   # satisfies PYTHON FILE: exit status 0 if every requirement of the file is installed in range
    "$1" - "$2" <<'PY' 2>/dev/null
import sys
from importlib.metadata import version
from pathlib import Path
try:
    from packaging.requirements import Requirement
except ImportError:     # packaging comes with matplotlib; every pip carries a copy
    from pip._vendor.packaging.requirements import Requirement

def check(path):
    for line in path.read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            check(path.parent / line[3:].strip())
        elif line:
            need = Requirement(line)
            assert need.specifier.contains(version(need.name), prereleases=True), line

check(Path(sys.argv[1]))
PY
}

find_python() {
    local need="$ROOT/$1" choice
    [ -n "${PYTHON:-}" ] && return
    for choice in "$(command -v python || true)" "$(command -v python3 || true)" "$ROOT/.venv/bin/python"; do
        if [ -x "$choice" ] && satisfies "$choice" "$need"; then PYTHON=$choice; return; fi
    done
    return 1
}

setup() {
    local base own="$ROOT/.venv"
    find_python "$1" && return
    base=$(command -v python3 || command -v python) || { echo "no python3 found: install Python 3.10 or newer" >&2; exit 1; }
    "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
        || { echo "$base is $("$base" -V): install Python 3.10 or newer" >&2; exit 1; }
    echo "setting up $own from $1 (once; some minutes and about 6 GB with the CUDA build of torch)" >&2
    "$own/bin/python" -m pip --version >/dev/null 2>&1 || "$base" -m venv --clear "$own"    # absent, or left half made
    "$own/bin/python" -m pip install --quiet --disable-pip-version-check -r "$ROOT/$1"
    find_python "$1" || { echo "$own does not satisfy $1: remove it and try again" >&2; exit 1; }
}
