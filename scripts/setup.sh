#!/usr/bin/env bash
# Finds the Python to run with, and makes one where there is none: .venv at the repository's root, with
# requirements.txt installed.
#
#   bash scripts/setup.sh [--dev] [--quiet] [--which]
#
#   --dev     also what the tests need (requirements-dev.txt)
#   --quiet   say nothing where nothing is to be done
#   --which   the same, and print the Python's path
#
# The first of these is taken:
#   1. PYTHON, if torch is installed there
#   2. the virtual environment that is active; the conda environment that is active ("base" only if
#      torch is installed there)
#   3. .venv, made here earlier
#   4. python3 on the PATH, if torch is installed there: a container's, a module's, the system's
#   5. a new .venv
#
# Into a Python that has torch nothing is installed unasked: what is missing is said, and how to get
# it. An active environment without torch gets what it lacks, .venv what requirements.txt names.
# Running this again does nothing; an interrupted run is redone.
#
# Environment: PYTHON            a Python with torch, or the Python >= 3.10 to build .venv with
#              ANPROMPT_INSTALL  yes: also into a Python that has torch, which stays unless too old
#                                no: nowhere; scripts run with what there is
#                                venv: into .venv, whatever else has torch
#              PIP_*             pip's own settings; on Linux without an NVIDIA GPU,
#                                PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
#                                avoids PyPI's CUDA build of PyTorch, which is several GB
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if asks_help "$@"; then usage; exit 0; fi
requirements="requirements.txt"
quiet=no
which=no
for argument in "$@"; do
  case "$argument" in
    --dev) requirements="requirements-dev.txt" ;;
    --quiet) quiet=yes ;;
    --which) quiet=yes which=yes ;;
    *) die "unknown argument '$argument'; it takes --dev, --quiet and --which" ;;
  esac
done
install="${ANPROMPT_INSTALL:-}"
case "$install" in
  "" | yes | no | venv) ;;
  *) die "ANPROMPT_INSTALL=$install: expected yes, no or venv" ;;
esac
# Seeing what would run installs nothing either.
[ -z "${DRY_RUN:-}" ] || install=no

say() { [ "$quiet" = yes ] || info "$@"; }

finish() { # PYTHON
  [ "$which" = no ] || printf '%s\n' "$1"
  exit 0
}

is_recent_python() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }
has_torch() {
  "$1" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)' 2>/dev/null
}

# Prints the Python of an environment that is active.
active_python() {
  if [ -n "${VIRTUAL_ENV:-}" ] && [ -x "$VIRTUAL_ENV/bin/python" ]; then
    printf '%s\n' "$VIRTUAL_ENV/bin/python"
  elif [ -n "${CONDA_PREFIX:-}" ] && [ -x "$CONDA_PREFIX/bin/python" ]; then
    # "base" is active in every shell of many machines: no choice, unless somebody put torch there.
    if [ "${CONDA_DEFAULT_ENV:-}" != base ] || has_torch "$CONDA_PREFIX/bin/python"; then
      printf '%s\n' "$CONDA_PREFIX/bin/python"
    fi
  fi
}

# Sets python to the one to use as it is; empty where .venv is to be made.
choose_python() {
  python=""
  [ "$install" != venv ] || return 0
  if [ -n "${PYTHON:-}" ]; then
    command -v "$PYTHON" >/dev/null || die "PYTHON=$PYTHON: no such program"
    if has_torch "$PYTHON"; then python="$(command -v "$PYTHON")"; return 0; fi
  fi
  python="$(active_python)"
  if [ -z "$python" ] && [ ! -x .venv/bin/python ] && [ -z "${PYTHON:-}" ]; then
    if command -v python3 >/dev/null && has_torch python3; then python="$(command -v python3)"; fi
  fi
}

find_builder() {
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

# With an NVIDIA driver pip's newest CUDA build is right; without one, a known CPU pair.
has_driver() { command -v nvidia-smi >/dev/null; }

# What tests compare with. It pins versions from 2021, so it comes without its dependencies.
install_oracles() { # PYTHON
  [ "$requirements" = requirements-dev.txt ] || return 0
  [ -n "$("$1" scripts/check_python.py requirements-oracles.txt | sed 1,2d)" ] || return 0
  "$1" -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-oracles.txt >&2 \
    || info "Not installed: requirements-oracles.txt. The tests that compare with it will skip."
}

# Uses a Python that is there, adding what it lacks where that is allowed.
use_python() { # PYTHON
  local python="$1" found torch size missing line constraints=() wanted=()
  is_recent_python "$python" || die "$python is older than Python 3.10"
  found="$("$python" scripts/check_python.py "$requirements")"
  { read -r torch; read -r size; missing="$(cat)"; } <<<"$found"
  if [ -z "$missing" ]; then
    say "Using $python: nothing is missing there."
    [ "$install" = no ] || install_oracles "$python"
    finish "$python"
  fi
  info "Using $python, which lacks (about $size MB):"
  info "$missing"
  if [ "$install" = no ]; then
    info "Nothing is installed (ANPROMPT_INSTALL=no, or DRY_RUN)."
    finish "$python"
  fi
  if [ -n "$torch" ] && [ "$install" != yes ]; then
    die "nothing is installed unasked where torch is. ANPROMPT_INSTALL=yes installs these there," \
      "ANPROMPT_INSTALL=venv makes .venv instead, ANPROMPT_INSTALL=no runs without them; or:" \
      "$python -m pip install $(tr '\n' ' ' <<<"$missing" | sed "s/[^ ][^ ]*/'&'/g")"
  fi
  while IFS= read -r line; do wanted+=("$line"); done <<<"$missing"
  if [ -z "$torch" ]; then
    has_driver || constraints=(-c constraints/cpu.txt)
  elif ! grep -q '^torch[^v]' <<<"$missing"; then
    wanted+=("torch==$torch") # it stays, whatever the others would like
  fi
  info "Installing them there (ANPROMPT_INSTALL=no would not)."
  "$python" -m pip install --disable-pip-version-check \
    "${constraints[@]+"${constraints[@]}"}" "${wanted[@]}" >&2
  install_oracles "$python"
  finish "$python"
}

case "${PYTHON:-}" in # seen from where the command was given
  /*) ;;
  */*) PYTHON="$PWD/$PYTHON" ;;
esac
cd "$ROOT"
# Two scripts started at once must not build the same environment twice.
if command -v flock >/dev/null; then
  exec 9<"$ROOT/scripts/setup.sh"
  flock 9
fi

choose_python
[ -z "$python" ] || use_python "$python"

# What is installed is remembered by the content of the files that said so. The full set serves
# both purposes, so it leaves both marks.
mark_of() { cat requirements*.txt constraints/cpu.txt | cksum | tr ' ' '-'; }
mark=".venv/installed-$requirements"
if [ -x .venv/bin/python ] && [ "$(cat "$mark" 2>/dev/null)" = "$(mark_of)" ]; then
  say "Nothing to do: .venv holds $requirements already."
  finish "$ROOT/.venv/bin/python"
fi
if [ "$install" = no ]; then
  [ ! -x .venv/bin/python ] || finish "$ROOT/.venv/bin/python"
  die "no Python with torch here, and ANPROMPT_INSTALL=no (or DRY_RUN) installs none;" \
    "bash scripts/setup.sh makes .venv, PYTHON=/path/to/python names another"
fi

# Left half-made by an interruption, or its Python is gone: start over.
if [ ! -e .venv/created ] || ! .venv/bin/python -c "" 2>/dev/null; then
  builder="$(find_builder)"
  info "Making .venv with $("$builder" --version 2>&1)"
  rm -rf .venv
  "$builder" -m venv .venv \
    || die "$builder cannot make a virtual environment (on Debian and Ubuntu: apt install python3-venv)"
  touch .venv/created
fi

info "Installing $requirements into .venv (once; 0.5 GB, with CUDA several; ANPROMPT_INSTALL=no or"
info "PYTHON=/path/to/a/python/with/torch: nothing is installed)"
constraint=()
if ! has_driver; then
  constraint=(-c constraints/cpu.txt)
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
  "${constraint[@]+"${constraint[@]}"}" -r "$requirements" >&2
install_oracles .venv/bin/python
mark_of >"$mark"
[ "$requirements" = requirements.txt ] || mark_of >.venv/installed-requirements.txt
info "Done: $ROOT/.venv"
finish "$ROOT/.venv/bin/python"
