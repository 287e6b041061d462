#!/usr/bin/env bash
# Base-to-new generalisation: train on half of the classes, test on them and on the other half.
#
#   bash scripts/METHOD/base2new_train.sh DATASET [SEED] [-- KEY VALUE ...]
#   bash scripts/METHOD/base2new_test.sh  DATASET [SEED] [-- KEY VALUE ...]
#
#   METHOD     anprompt, coop, maple, zsclip, ...; a method of your own has no folder of scripts:
#              bash scripts/base2new.sh METHOD train|test ..., METHOD as --trainer
#   DATASET    a file of configs/datasets/: eurosat, caltech101, ...; shapes needs no data
#   SEED       one seed, or several as 1,2,3 (default: 1,2,3)
#   KEY VALUE  settings for train.py, e.g. OPTIM.MAX_EPOCH 5; give training and test the same
#
#   DATA=/path/to/datasets bash scripts/anprompt/base2new_train.sh eurosat 1
#   DATA=/path/to/datasets bash scripts/anprompt/base2new_test.sh eurosat 1
#
# Environment: DATA      folder that holds the data sets
#              OUTPUT    where results go (default: output/ in the repository)
#              BACKBONE  ViT-B/16, RN50, an open_clip tag, a checkpoint's path, or small, the CLIP that
#                        comes with this repository (default: the configuration's own where its
#                        weights are on this machine already, else small)
#              CFG       a file of configs/trainers/<trainer>/ (default: the method's published one), or
#                        the path of a YAML file
#              PLUGIN    a file of your own trainers or data sets, as train.py --plugin
#              SHOTS     images per class (default: 16)
#              LOADEP    test: the epoch to read (default: the last)
#              DRY_RUN   1: print the commands, run nothing
#
# A finished run is skipped, an interrupted one goes on where it stopped. Results:
#   OUTPUT/base2new/train_base/DATASET/shots_16/TRAINER/CFG/seed1     tested on base classes
#   OUTPUT/base2new/test_new/DATASET/shots_16/TRAINER/CFG/seed1       tested on new classes
# where CFG is followed by -BACKBONE if that is not the one its file names.

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
anprompt run base2new "$@"
