# Sourced by the scripts beside it: go to the project's root and have .venv there, everything pinned.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

make_venv() {
    local wanted python
    wanted=$(cat constraints.txt setup.cfg | sha256sum)
    if [ "$(cat .venv/installed 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    for python in python3.11 python3.12 python3.13 python3; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            break
        fi
        python=
    done
    if [ -z "$python" ]; then
        echo "error: no Python 3.11 or newer found; install one and run this again" >&2
        exit 2
    fi
    echo "Installing into .venv (some minutes, once) ..."
    "$python" -m venv .venv
    # torch first: another package's range could bring a build of several GB that nobody asked for
    .venv/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch setuptools
    .venv/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
        --no-build-isolation --editable '.[train,evaluate,serve,dev]'
    echo "$wanted" >.venv/installed
}

make_venv
export NO_PROXY="127.0.0.1,localhost${NO_PROXY:+,$NO_PROXY}" # or a proxy would be asked for our own servers
export no_proxy="$NO_PROXY"
export PATH="$PWD/.venv/bin:$PATH"
