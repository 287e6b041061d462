#!/usr/bin/env bash
# Sets the environment up if needed, then checks lint and format, with the whole suite also types,
# and runs the tests.
#
#   bash scripts/test.sh [--fast] [ARGUMENTS OF PYTEST]
#
#   bash scripts/test.sh                              everything
#   bash scripts/test.sh --fast                       all but the tests that are marked as slow
#   bash scripts/test.sh tests/dassl -k scheduler     one package, some tests
#
# Tests on real images read the folder that ANPROMPT_TEST_DATA names and skip without it.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if asks_help "$@"; then usage; exit 0; fi
tier=()
if [ "${1:-}" = --fast ]; then
  tier=(-m "not slow")
  shift
fi
ensure_env --dev
cd "$ROOT"
"$PY" -m ruff check .
"$PY" -m ruff format --check .
if [ $# -eq 0 ] && [ ${#tier[@]} -eq 0 ]; then # what takes longer: with the whole suite only
  "$PY" -m mypy
fi
# Side by side; one core each, at most four. "-n 0" as an argument runs them one after the other.
exec "$PY" -m pytest -n auto --maxprocesses 4 "${tier[@]+"${tier[@]}"}" "$@"
