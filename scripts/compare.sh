#!/usr/bin/env bash
# Compares methods on a folder of your own images: checks it, trains, tests, makes the table and the
# report.
#
#   bash scripts/compare.sh IMAGES [--methods A,B] [--shots 16] [--seeds 1,2,3] [--base2new]
#
#   IMAGES           a folder with one folder a class, or with train and test folders of such; or a table,
#                    IMAGES.csv, with path,label[,split]
#   --methods A,B    trainers, or as the scripts call them, or all (default: zero-shot CLIP, CoOp, MaPLe,
#                    PromptSRC, MMRL, ANPrompt)
#   --shots K        images a class for training; where no test images are given, all others are tested
#                    on (default: 16)
#   --seeds 1,2      default: 1,2,3
#   --base2new       train on half of the classes, test on both halves (default: few-shot on all)
#   --title NAME     what tables call the data (default: the folder's name)
#   -- KEY VALUE     settings of train.py for all runs
#
#   bash scripts/compare.sh ~/birds --methods zsclip,coop,anprompt --seeds 1,2
#
# Everything wrong with the images is listed before anything is trained. Interrupted, the same command
# goes on. Tables and report.html are in OUTPUT.
#
# Environment: OUTPUT    where results go (default: output_NAME in the repository)
#              BACKBONE  ViT-B/16, RN50, an open_clip tag, a checkpoint's path, or small (bundled)
#              DRY_RUN   1: print the commands, run nothing

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
anprompt compare "$@"
