# Sourced by every script here: finds the repository and a Python environment, from any directory.
# Afterwards ROOT is the repository's root and PY the Python to run (once ensure_env was called).

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)"

info() { printf '%s\n' "$*" >&2; }
die() { printf '%s: error: %s\n' "$(basename "$0")" "$*" >&2; exit 2; }

# Prints the comment block at the top of the calling script: its documentation is its --help.
usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; }

asks_help() {
  local argument
  for argument in "$@"; do
    [ "$argument" = "--" ] && return 1
    [ "$argument" = "-h" ] || [ "$argument" = "--help" ] && return 0
  done
  return 1
}

# An environment that is active already is the user's choice and wins over .venv.
# Conda's "base" is active in every shell of many machines, so it counts as no choice.
active_env() {
  if [ -n "${VIRTUAL_ENV:-}" ] && [ -x "$VIRTUAL_ENV/bin/python" ]; then
    printf '%s\n' "$VIRTUAL_ENV"
  elif [ -n "${CONDA_PREFIX:-}" ] && [ "${CONDA_DEFAULT_ENV:-}" != base ] \
    && [ -x "$CONDA_PREFIX/bin/python" ]; then
    printf '%s\n' "$CONDA_PREFIX"
  fi
}

# Sets PY, installing what is missing first. Arguments go to setup.sh (--dev).
ensure_env() {
  bash "$ROOT/scripts/setup.sh" --quiet "$@" </dev/null >&2
  local env
  env="$(active_env)"
  PY="${env:-$ROOT/.venv}/bin/python"
}
