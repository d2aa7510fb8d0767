# Sourced by sh/demo.sh and sh/test.sh: `setup FILE` leaves $PYTHON, an interpreter that satisfies the requirements FILE.
# The active environment is used if it does; otherwise an environment of its own, .venv beside the code, made once.

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

setup() {
    local need="$ROOT/$1" active
    active=$(command -v python3 || command -v python) || { echo "no python3 found: install Python 3.10 or newer" >&2; exit 1; }
    if satisfies "$active" "$need"; then PYTHON=$active; return; fi
    PYTHON="$ROOT/.venv/bin/python"
    if [ -x "$PYTHON" ] && satisfies "$PYTHON" "$need"; then return; fi
    echo "setting up $ROOT/.venv from $1 (once; some minutes and about 6 GB with the CUDA build of torch)" >&2
    [ -x "$PYTHON" ] || "$active" -m venv "$ROOT/.venv"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$need"
    satisfies "$PYTHON" "$need" || { echo "$ROOT/.venv does not satisfy $1: remove it and try again" >&2; exit 1; }
}
