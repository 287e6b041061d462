#!/usr/bin/env bash
# Cross-dataset transfer and domain generalisation: train on all classes of a source data set, test
# there and, as it is, on other data sets or on other test sets of the same classes.
#
#   bash scripts/METHOD/xd_train.sh SOURCE [SEED] [-- KEY VALUE ...]
#   bash scripts/METHOD/xd_test.sh  TARGET [SEED] [-- KEY VALUE ...]
#
#   METHOD     a folder of scripts/: anprompt, coop, maple, zsclip, ...
#   SOURCE     a file of configs/datasets/; left out: what the environment says
#   TARGET     a file of configs/datasets/: eurosat, ...; domain generalisation: imagenetv2,
#              imagenet_sketch, imagenet_a, imagenet_r
#   SEED       one seed, or several as 1,2,3 (default: 1,2,3)
#   KEY VALUE  settings for train.py, e.g. OPTIM.MAX_EPOCH 5; give training and test the same
#
#   DATA=/path/to/datasets bash scripts/anprompt/xd_train.sh imagenet 1
#   DATA=/path/to/datasets bash scripts/anprompt/xd_test.sh eurosat 1
#
# Environment: DATA      folder that holds the data sets
#              SOURCE    the data set trained on (default: imagenet)
#              OUTPUT    where results go (default: output/ in the repository)
#              BACKBONE  ViT-B/16, RN50, an open_clip tag, a checkpoint's path (default: small, the
#                        CLIP that comes with this repository)
#              CFG       a file of configs/trainers/<trainer>/ (default: the method's published one)
#              SHOTS     images per class (default: 16)
#              LOADEP    test: the epoch to read (default: the last)
#              DRY_RUN   1: print the commands, run nothing
#
# A finished run is skipped, an interrupted one goes on where it stopped. Results:
#   OUTPUT/crossdata/train/SOURCE/shots_16/TRAINER/CFG/seed1           tested on the source
#   OUTPUT/crossdata/test/SOURCE/TARGET/shots_16/TRAINER/CFG/seed1     tested on a target
# where CFG is followed by -BACKBONE if that is not the one its file names.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if asks_help "$@"; then usage; exit 0; fi
method="${1:-}" part="${2:-}"
[ $# -lt 2 ] || shift 2
SOURCE="${SOURCE:-imagenet}"
case "$part" in
  train)
    if ! is_numbers "${1:-}"; then
      SOURCE="${1:-$SOURCE}"
      [ $# -eq 0 ] || shift
    fi
    dataset="$SOURCE"
    ;;
  test)
    dataset="${1:-}"
    [ $# -eq 0 ] || shift
    [ "$dataset" != "$SOURCE" ] || die "$dataset is the source; it is tested when training ends," \
      "by xd_train.sh (SOURCE names another source)"
    ;;
  *) die "'$part': expected train or test (--help says more)" ;;
esac
[ -n "$dataset" ] && [ "$dataset" != "--" ] || die "needs a data set (--help says more)"
take_seeds "$@"
shift "$taken"
if [ "${1:-}" = "--" ]; then shift; fi

SHOTS="${SHOTS:-16}"
load_method "$method"
choose_config crossdata "$SOURCE" "$SHOTS"
need_data "$dataset"
ensure_env
announce_backbone

for seed in ${seeds//,/ }; do
  run="shots_$SHOTS/$TRAINER/$CFG_FOLDER/seed$seed"
  trained="$OUTPUT/crossdata/train/$SOURCE/$run"
  options=(DATASET.NUM_SHOTS "$SHOTS" DATASET.SUBSAMPLE_CLASSES all TASK CD)
  if [ "$part" = train ]; then
    train_in "$trained" "$SOURCE" "$seed" "${options[@]}" "$@"
  else
    test_in "$OUTPUT/crossdata/test/$SOURCE/$dataset/$run" "$trained" \
      "scripts/$method/xd_train.sh $SOURCE $seed" "$dataset" "$seed" "${options[@]}" "$@"
  fi
done
