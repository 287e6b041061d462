#!/usr/bin/env bash
# Cross-dataset transfer and domain generalisation: train on all classes of a source data set, test
# there and, as it is, on other data sets or on other test sets of the same classes.
#
#   bash scripts/METHOD/xd_train.sh SOURCE [SEED] [-- KEY VALUE ...]
#   bash scripts/METHOD/xd_test.sh  TARGET [SEED] [-- KEY VALUE ...]
#
#   METHOD     anprompt, coop, maple, zsclip, ...; a method of your own has no folder of scripts:
#              bash scripts/crossdata.sh METHOD train|test ..., METHOD as --trainer
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
#   OUTPUT/crossdata/train/SOURCE/shots_16/TRAINER/CFG/seed1           tested on the source
#   OUTPUT/crossdata/test/SOURCE/TARGET/shots_16/TRAINER/CFG/seed1     tested on a target
# where CFG is followed by -BACKBONE if that is not the one its file names.

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
anprompt run crossdata "$@"
