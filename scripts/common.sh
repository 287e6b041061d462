# shellcheck shell=bash
# Sourced by every script here: finds the repository and a Python environment, from any directory.

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

# So that the packages are found from any folder.
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"

# Sets PY, the Python to run, installing what is missing where scripts/setup.sh may. Arguments go
# there (--dev).
ensure_env() {
  PY="$(bash "$ROOT/scripts/setup.sh" --which "$@" </dev/null)" || exit $?
}

# Ends the script as a command of python -m anprompt; --help is the script's own.
anprompt() { # COMMAND ARGUMENTS OF THE SCRIPT
  if asks_help "$@"; then usage; exit 0; fi
  ensure_env
  exec "$PY" -m anprompt "$@"
}
