# Sourced by the scripts beside it: go to the project's root and have an environment there, all pinned.
#   PYTHON  the interpreter for a new one (default: the first of 3.11, 3.12, 3.13 that is here)
#   VENV    its folder (.venv)
#   LOCK    the exact versions (constraints.txt)
#   EXTRAS  which of pyproject.toml's extras go in (all)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${VENV:-.venv}
LOCK=${LOCK:-constraints.txt}
EXTRAS=${EXTRAS:-train,evaluate,serve,dev}

find_python() {
    local python
    for python in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    echo "error: no Python 3.11 or newer found; install one and run this again" >&2
    exit 2
}

make_venv() {
    local wanted python
    wanted=$(cat "$LOCK" pyproject.toml | sha256sum)
    if [ "$(cat "$VENV/installed" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    python=$(find_python)
    echo "Installing into $VENV (some minutes, once) ..."
    "$python" -m venv "$VENV"
    # torch first: another package's range could bring a build of several GB that nobody asked for
    "$VENV/bin/pip" install --quiet --disable-pip-version-check --constraint "$LOCK" torch setuptools
    "$VENV/bin/pip" install --quiet --disable-pip-version-check --constraint "$LOCK" \
        --no-build-isolation --editable ".[$EXTRAS]"
    echo "$wanted" >"$VENV/installed"
}

make_venv
export NO_PROXY="127.0.0.1,localhost${NO_PROXY:+,$NO_PROXY}" # or a proxy would be asked for our own servers
export no_proxy="$NO_PROXY"
export PATH="$PWD/$VENV/bin:$PATH"
