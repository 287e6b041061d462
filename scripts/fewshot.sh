#!/usr/bin/env bash
# Few-shot classification: train on K images of every class, test on all classes.
#
#   bash scripts/METHOD/few_shot.sh DATASET [SHOTS [SEED]] [-- KEY VALUE ...]
#
#   METHOD     anprompt, coop, maple, zsclip, ...; a method of your own has no folder of scripts:
#              bash scripts/fewshot.sh METHOD DATASET ..., METHOD as --trainer
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
#              BACKBONE  ViT-B/16, RN50, an open_clip tag, a checkpoint's path, or small, the CLIP that
#                        comes with this repository (default: the configuration's own where its
#                        weights are on this machine already, else small)
#              CFG       a file of configs/trainers/<trainer>/ (default: the method's published one), or
#                        the path of a YAML file
#              PLUGIN    a file of your own trainers or data sets, as train.py --plugin
#              SHOTS     where the argument is left out
#              DRY_RUN   1: print the commands, run nothing
#
# A finished run is skipped, an interrupted one goes on where it stopped. Results:
#   OUTPUT/fewshot/DATASET/shots_4/TRAINER/CFG/seed1
# where CFG is followed by -BACKBONE if that is not the one its file names.

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
anprompt run fewshot "$@"
