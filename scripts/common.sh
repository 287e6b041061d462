# shellcheck shell=bash disable=SC2034
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

# So that the packages are found from any folder.
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"

# Sets PY, installing what is missing first. Arguments go to setup.sh (--dev).
ensure_env() {
  local env
  [ -n "${DRY_RUN:-}" ] || bash "$ROOT/scripts/setup.sh" --quiet "$@" </dev/null >&2
  env="$(active_env)"
  PY="${env:-$ROOT/.venv}/bin/python"
}

# Sets OUTPUT, where results go, unless the environment does. What is to stay out of the tables of
# output/ goes beside it.
set_output() { # [WHAT]
  [ -z "${OUTPUT:-}" ] || return 0
  OUTPUT="output${1:+_$1}"
  [ "$PWD" = "$ROOT" ] || OUTPUT="$ROOT/$OUTPUT"
}

# Sets TRAINER, CONFIGS, LEARNS and the defaults of what the environment may give.
# A method is a folder of scripts/ with a settings.sh.
load_method() { # METHOD
  local settings="$ROOT/scripts/$1/settings.sh"
  [ -f "$settings" ] || die "no method '$1'; there are:" \
    "$(cd "$ROOT/scripts" && echo */settings.sh | sed 's|/settings.sh||g')"
  CONFIGS=""
  LEARNS=yes
  # shellcheck source=/dev/null
  source "$settings"
  BACKBONE="${BACKBONE:-small}"
  set_output
}

# Sets CONFIG_FILE and CFG_FOLDER: the environment's CFG, or the method's for this protocol.
choose_config() { # PROTOCOL DATASET SHOTS
  local cfg="${CFG:-$(default_cfg "$1" "$2" "$3")}" own
  [ -n "$cfg" ] || die "$TRAINER has no configuration for $1; name one of configs/trainers in CFG"
  CONFIG_FILE="$ROOT/configs/trainers/${CONFIGS:-$TRAINER}/$cfg.yaml"
  own="$(awk '/^ *BACKBONE:/ { found = 1 } found && /NAME:/ { gsub(/"/, ""); print $2; exit }' \
    "$CONFIG_FILE" 2>/dev/null || true)"
  CFG_FOLDER="${cfg##*/}"
  [ "$BACKBONE" = "$own" ] || CFG_FOLDER="$CFG_FOLDER-${BACKBONE//[\/:]/_}"
}

is_numbers() { [[ "${1:-}" =~ ^[0-9]+(,[0-9]+)*$ ]]; } # 1 or 1,2,3

# Sets seeds, from the first argument or the default, and taken, how many arguments that were.
take_seeds() { # [SEED] ...
  seeds=1,2,3 taken=0
  if is_numbers "${1:-}"; then
    seeds="$1" taken=1
  elif [[ "${1:-}" =~ ^[^A-Za-z] ]] && [ "$1" != "--" ]; then
    die "'$1': expected SEED, as 1 or 1,2,3, or settings KEY VALUE"
  fi
}

need_data() { # DATASET
  [ "$1" != shapes ] || return 0
  [ -n "${DATA:-}" ] || die "DATA is not set: name the folder that holds the data sets," \
    "DATA=/path/to/datasets bash ... (the data set 'shapes' needs none)"
  [ -d "$DATA" ] || die "DATA=$DATA: no such folder; it should be the one that holds the data sets"
}

announce_backbone() {
  local hint=""
  [ "$BACKBONE" != small ] || hint=" (bundled; BACKBONE=ViT-B/16 takes OpenAI's)"
  info "Backbone: $BACKBONE$hint"
}

# Runs train.py, or prints the command where DRY_RUN is set.
run_trainer() { # DATASET SEED FLAGS AND OPTIONS OF train.py
  local dataset="$1" seed="$2" command
  shift 2
  command=("$PY" "$ROOT/train.py" ${DATA:+--root "$DATA"} --seed "$seed" --trainer "$TRAINER"
    ${PLUGIN:+--plugin "$PLUGIN"} --backbone "$BACKBONE" --config-file "$CONFIG_FILE"
    --dataset-config-file "$ROOT/configs/datasets/$dataset.yaml" "$@")
  if [ -n "${DRY_RUN:-}" ]; then
    printf '%q ' "${command[@]}"
    echo
  else
    "${command[@]}"
  fi
}

# Trains in a folder; a method that learns nothing is evaluated there.
train_in() { # FOLDER DATASET SEED KEY VALUE ...
  local folder="$1" dataset="$2" seed="$3" flags
  shift 3
  flags=(--output-dir "$folder")
  [ "$LEARNS" = yes ] || flags+=(--eval-only)
  run_trainer "$dataset" "$seed" "${flags[@]}" "$@"
}

# Evaluates in a folder what was trained in another; HINT is the command that trains it.
test_in() { # FOLDER TRAINED HINT DATASET SEED KEY VALUE ...
  local folder="$1" trained="$2" hint="$3" dataset="$4" seed="$5" flags
  shift 5
  flags=(--output-dir "$folder" --eval-only)
  if [ "$LEARNS" = yes ]; then
    [ -d "$trained" ] || [ -n "${DRY_RUN:-}" ] ||
      die "nothing was trained in $trained; run $hint first"
    flags+=(--model-dir "$trained")
    [ -z "${LOADEP:-}" ] || flags+=(--load-epoch "$LOADEP")
  fi
  run_trainer "$dataset" "$seed" "${flags[@]}" "$@"
}
