#!/usr/bin/env bash
# Base-to-new generalisation: train on half of the classes, test on them and on the other half.
#
#   bash scripts/METHOD/base2new_train.sh DATASET [SEED] [-- KEY VALUE ...]
#   bash scripts/METHOD/base2new_test.sh  DATASET [SEED] [-- KEY VALUE ...]
#
#   METHOD     a folder of scripts/: anprompt, coop, maple, zsclip, ...
#   DATASET    a file of configs/datasets/: eurosat, caltech101, ...; shapes needs no data
#   SEED       one seed, or several as 1,2,3 (default: 1,2,3)
#   KEY VALUE  settings for train.py, e.g. OPTIM.MAX_EPOCH 5; give training and test the same
#
#   DATA=/path/to/datasets bash scripts/anprompt/base2new_train.sh eurosat 1
#   DATA=/path/to/datasets bash scripts/anprompt/base2new_test.sh eurosat 1
#
# Environment: DATA      folder that holds the data sets
#              OUTPUT    where results go (default: output/ in the repository)
#              BACKBONE  ViT-B/16, RN50, an open_clip tag, a checkpoint's path (default: small, the
#                        CLIP that comes with this repository)
#              CFG       a file of configs/trainers/<trainer>/ (default: the method's published one)
#              SHOTS     images per class (default: 16)
#              LOADEP    test: the epoch to read (default: the last)
#              DRY_RUN   1: print the commands, run nothing
#
# A finished run is skipped, an interrupted one goes on where it stopped. Results:
#   OUTPUT/base2new/train_base/DATASET/shots_16/TRAINER/CFG/seed1     tested on base classes
#   OUTPUT/base2new/test_new/DATASET/shots_16/TRAINER/CFG/seed1       tested on new classes
# where CFG is followed by -BACKBONE if that is not the one its file names.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if asks_help "$@"; then usage; exit 0; fi
[ $# -ge 3 ] && [ "$3" != "--" ] || die "needs DATASET (--help says more)"
method="$1" part="$2" dataset="$3"
shift 3
take_seeds "$@"
shift "$taken"
if [ "${1:-}" = "--" ]; then shift; fi

SHOTS="${SHOTS:-16}"
load_method "$method"
choose_config base2new "$dataset" "$SHOTS"
need_data "$dataset"
ensure_env
announce_backbone

for seed in ${seeds//,/ }; do
  run="$dataset/shots_$SHOTS/$TRAINER/$CFG_FOLDER/seed$seed"
  trained="$OUTPUT/base2new/train_base/$run"
  options=(DATASET.NUM_SHOTS "$SHOTS" TASK B2N DATASET.SUBSAMPLE_CLASSES)
  case "$part" in
    train) train_in "$trained" "$dataset" "$seed" "${options[@]}" base "$@" ;;
    test)
      test_in "$OUTPUT/base2new/test_new/$run" "$trained" \
        "scripts/$method/base2new_train.sh $dataset $seed" \
        "$dataset" "$seed" "${options[@]}" new "$@"
      ;;
    *) die "'$part': expected train or test" ;;
  esac
done
