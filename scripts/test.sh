#!/usr/bin/env bash
# All checks: bash scripts/test.sh [pytest arguments]
source "$(dirname "$0")/venv.sh"
ruff check .
ruff format --check .
python -m pytest "$@"
