#!/usr/bin/env bash
# The unit tests with the oldest versions that pyproject.toml accepts. PyPI has torch 2.11 for Linux
# with CUDA only (some 6 GB installed); PIP_EXTRA_INDEX_URL can name an index of CPU builds.
VENV=.venv-oldest LOCK=constraints-oldest.txt EXTRAS=train,evaluate,serve,test
source "$(dirname "$0")/venv.sh"
OMP_NUM_THREADS=1 python -m pytest -n 2 --dist worksteal -m unit "$@"
