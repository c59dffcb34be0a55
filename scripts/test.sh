#!/usr/bin/env bash
# All checks: bash scripts/test.sh [pytest arguments]
source "$(dirname "$0")/venv.sh"
ruff check .
ruff format --check .
# Two workers of one thread each: torch's threads would wait for one another, spinning.
OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile "$@"
