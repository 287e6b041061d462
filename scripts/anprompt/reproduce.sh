#!/usr/bin/env bash
# Computes a table: runs what is missing of a protocol, then prints it.
#
#   bash scripts/anprompt/reproduce.sh PROTOCOL [OPTIONS] [-- KEY VALUE ...]
#
#   PROTOCOL          base2new, crossdata, domaingen or fewshot (docs/PROTOCOLS.md)
#   --methods A,B     trainers, or as the scripts call them (default: all)
#   --datasets A,B    files of configs/datasets/ (default: CoOp's eleven); of crossdata and domaingen
#                     those tested on (default: the eleven but the source; the four ImageNet
#                     variants), also written --targets
#   --seeds 1,2,3     default: 1,2,3
#   --shots 1,4       images per class (default: 16; of fewshot 1,2,4,8,16)
#   --source NAME     crossdata, domaingen: the data set trained on (default: imagenet)
#   --jobs N          runs side by side (default: 1 on a GPU; else one a core, at most 4)
#   --cfg M=CONFIG    another configuration for method M, or the path of a YAML file (repeatable)
#   --plugin FILE.py  your own trainers or data sets (repeatable)
#   KEY VALUE         settings for train.py, for all runs
#
#   DATA=/path/to/datasets bash scripts/anprompt/reproduce.sh base2new --datasets eurosat,dtd
#   DATA=/path/to/datasets bash scripts/anprompt/reproduce.sh crossdata --source caltech101 \
#     --targets eurosat --methods zsclip,coop,anprompt
#
# Interrupted, the same command goes on where it was stopped. A run that fails does not stop the
# others and is listed. The table holds all that OUTPUT has of the protocol, also in
# OUTPUT/PROTOCOL.md; what is missing there is shown as missing. Logs are in OUTPUT/logs.
#
# Environment: DATA      folder that holds the data sets (the data set 'shapes' needs none)
#              OUTPUT    where results go (default: output/ in the repository)
#              BACKBONE  ViT-B/16, RN50, an open_clip tag, a checkpoint's path, or small, the CLIP that
#                        comes with this repository (default: the one that all configurations name
#                        where its weights are on this machine already, else small)
#              DRY_RUN   1: say what is finished and print the commands of the others, run nothing

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
anprompt reproduce "$@"
