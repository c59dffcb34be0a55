#!/usr/bin/env bash
# All checks and tests: bash scripts/test.sh
# Some tests, after the quick checks: bash scripts/test.sh -m unit [more pytest arguments]
# With a report of what they cover, which takes longer: COVERAGE=1 bash scripts/test.sh
source "$(dirname "$0")/venv.sh"
ruff check .
ruff format --check .
codespell
lint-imports --no-cache >"$VENV/lint-imports.log" || { cat "$VENV/lint-imports.log"; exit 1; }
if [ $# = 0 ]; then # slow in a fresh clone, so only with all tests
    mypy
    NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet --site-dir "$PWD/$VENV/site"
fi
coverage=()
if [ -n "${COVERAGE:-}" ]; then
    coverage=(--cov --cov-report=term)
fi
# Two workers of one thread each: torch's threads would wait for one another, spinning.
OMP_NUM_THREADS=1 python -m pytest -n 2 --dist worksteal "${coverage[@]}" "$@"
