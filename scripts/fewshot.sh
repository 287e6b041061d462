#!/usr/bin/env bash
# Few-shot classification: train on K images of every class, test on all classes.
#
#   bash scripts/METHOD/few_shot.sh DATASET [SHOTS [SEED]] [-- KEY VALUE ...]
#
#   METHOD     a folder of scripts/: anprompt, coop, maple, zsclip, ...
#   DATASET    a file of configs/datasets/: eurosat, caltech101, ...; shapes needs no data
#   SHOTS      images per class, one number or several (default: 1,2,4,8,16)
#   SEED       one seed, or several (default: 1,2,3)
#   KEY VALUE  settings for train.py, e.g. OPTIM.MAX_EPOCH 5
#
#   DATA=/path/to/datasets bash scripts/anprompt/few_shot.sh eurosat 4
#   DATA=/path/to/datasets bash scripts/anprompt/few_shot.sh eurosat 1,16 2
#
# Environment: DATA      folder that holds the data sets
#              OUTPUT    where results go (default: output/ in the repository)
#              BACKBONE  ViT-B/16, RN50, an open_clip tag, a checkpoint's path (default: small, the
#                        CLIP that comes with this repository)
#              CFG       a file of configs/trainers/<trainer>/ (default: the method's published one)
#              SHOTS     where the argument is left out
#              DRY_RUN   1: print the commands, run nothing
#
# A finished run is skipped, an interrupted one goes on where it stopped. Results:
#   OUTPUT/fewshot/DATASET/shots_4/TRAINER/CFG/seed1
# where CFG is followed by -BACKBONE if that is not the one its file names.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if asks_help "$@"; then usage; exit 0; fi
[ $# -ge 2 ] && [ "$2" != "--" ] || die "needs DATASET (--help says more)"
method="$1" dataset="$2" shots="${SHOTS:-1,2,4,8,16}"
shift 2
if is_numbers "${1:-}"; then shots="$1"; shift; fi
take_seeds "$@"
shift "$taken"
if [ "${1:-}" = "--" ]; then shift; fi

load_method "$method"
choose_config fewshot "$dataset" 1
need_data "$dataset"
ensure_env
announce_backbone
info "Few-shot on $dataset: $shots images per class, seed $seeds"

for shot in ${shots//,/ }; do
  choose_config fewshot "$dataset" "$shot"
  for seed in ${seeds//,/ }; do
    train_in "$OUTPUT/fewshot/$dataset/shots_$shot/$TRAINER/$CFG_FOLDER/seed$seed" \
      "$dataset" "$seed" \
      DATASET.NUM_SHOTS "$shot" DATASET.SUBSAMPLE_CLASSES all TASK FS "$@"
  done
done
