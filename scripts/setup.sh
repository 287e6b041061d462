#!/usr/bin/env bash
# Makes the Python environment: .venv at the repository's root, with requirements.txt installed.
#
#   bash scripts/setup.sh [--dev] [--quiet]
#
#   --dev     also what the tests need (requirements-dev.txt)
#   --quiet   say nothing where nothing is to be done
#
# An environment that is active already (virtualenv or conda) is used instead of .venv, and only
# what it lacks is installed there. Running this again does nothing; an interrupted run is redone.
#
# Environment: PYTHON  the Python >= 3.10 to build .venv with (default: python3)
#              PIP_*   pip's own settings; on Linux without an NVIDIA GPU,
#                      PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
#                      avoids PyPI's CUDA build of PyTorch, which is several GB
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if asks_help "$@"; then usage; exit 0; fi
dev=no
quiet=no
for argument in "$@"; do
  case "$argument" in
    --dev) dev=yes ;;
    --quiet) quiet=yes ;;
    *) die "unknown argument '$argument'; it takes --dev and --quiet" ;;
  esac
done
say() { [ "$quiet" = yes ] || info "$@"; }

is_recent_python() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

find_python() {
  local name
  if [ -n "${PYTHON:-}" ]; then
    command -v "$PYTHON" >/dev/null || die "PYTHON=$PYTHON: no such program"
    is_recent_python "$PYTHON" || die "PYTHON=$PYTHON is not Python 3.10 or later"
    printf '%s\n' "$PYTHON"
    return
  fi
  for name in python3 python3.13 python3.12 python3.11 python3.10; do
    if command -v "$name" >/dev/null && is_recent_python "$name"; then
      printf '%s\n' "$name"
      return
    fi
  done
  die "no Python 3.10 or later found; install one, or name it: PYTHON=/path/to/python3"
}

requirements="requirements.txt"
[ "$dev" = no ] || requirements="requirements-dev.txt"

# With an NVIDIA driver pip's newest CUDA build is right; without one, a known CPU pair.
constraint=()
if ! command -v nvidia-smi >/dev/null; then constraint=(-c constraints/cpu.txt); fi

# What tests compare with. It pins versions from 2021, so it comes without its dependencies.
install_oracles() { # PYTHON
  [ "$dev" = yes ] || return 0
  [ -n "$("$1" scripts/missing_requirements.py requirements-oracles.txt)" ] || return 0
  "$1" -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-oracles.txt \
    || info "Not installed: requirements-oracles.txt. The tests that compare with it will skip."
}

cd "$ROOT"
# Two scripts started at once must not build the same environment twice.
if command -v flock >/dev/null; then
  exec 9<"$ROOT/scripts/setup.sh"
  flock 9
fi

env="$(active_env)"
if [ -n "$env" ]; then
  python="$env/bin/python"
  is_recent_python "$python" || die "the active environment $env has a Python older than 3.10"
  missing="$("$python" scripts/missing_requirements.py "$requirements")"
  if [ -z "$missing" ]; then
    say "Using the active environment $env: nothing is missing there."
    install_oracles "$python"
    exit 0
  fi
  info "Using the active environment $env. Installing what it lacks:"
  info "$missing"
  "$python" -m pip install "${constraint[@]+"${constraint[@]}"}" -r "$requirements"
  install_oracles "$python"
  exit 0
fi

# What is installed is remembered by the content of the files that said so. The full set serves
# both purposes, so it leaves both marks.
mark_of() { cat requirements*.txt constraints/cpu.txt | cksum | tr ' ' '-'; }
mark=".venv/installed-$requirements"
if [ -x .venv/bin/python ] && [ "$(cat "$mark" 2>/dev/null)" = "$(mark_of)" ]; then
  say "Nothing to do: .venv holds $requirements already."
  exit 0
fi

# Left half-made by an interruption, or its Python is gone: start over.
if [ ! -e .venv/created ] || ! .venv/bin/python -c "" 2>/dev/null; then
  python="$(find_python)"
  info "Making .venv with $("$python" --version 2>&1)"
  rm -rf .venv
  "$python" -m venv .venv \
    || die "$python cannot make a virtual environment (on Debian and Ubuntu: apt install python3-venv)"
  touch .venv/created
fi

info "Installing $requirements into .venv (once; PyTorch takes a while)"
if [ "${#constraint[@]}" -gt 0 ]; then
  info "No NVIDIA driver found, so PyTorch is held to constraints/cpu.txt."
  if [ "$(uname -s)" = Linux ] && [ -z "${PIP_EXTRA_INDEX_URL:-}${PIP_INDEX_URL:-}" ]; then
    info "PyPI's Linux build of it carries CUDA all the same (several GB). To download less, stop this"
    info "and set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu first."
  fi
fi
rm -f .venv/installed-*
detail=()
[ -t 2 ] || detail=(--quiet --progress-bar off)
.venv/bin/python -m pip install --disable-pip-version-check "${detail[@]+"${detail[@]}"}" \
  "${constraint[@]+"${constraint[@]}"}" -r "$requirements"
install_oracles .venv/bin/python
mark_of >"$mark"
[ "$dev" = no ] || mark_of >.venv/installed-requirements.txt
info "Done: $ROOT/.venv"
