#!/usr/bin/env bash
# Ablations of ANPrompt, base-to-new: the whole method, then one change at a time.
#
#   bash scripts/anprompt/ablations.sh [DATASET [SEEDS [NAME ...]]]
#
#   DATASET  a file of configs/datasets/ (default: shapes, which needs no data)
#   SEEDS    default: 1,2,3
#   NAME     files of configs/trainers/ANPrompt/ablations (default: all of them)
#
# A finished run is skipped, an interrupted one goes on where it stopped. Ends in a table, also in
# OUTPUT/ablations.md; python -m anprompt robustness --model-dir OUTPUT/base2new/train_base/DATASET then puts all
# of them under noise.
#
# Environment: DATA, BACKBONE, SHOTS as scripts/anprompt/base2new_train.sh; OUTPUT (default:
# output_ablations in the repository); DRY_RUN=1 prints the commands and runs nothing

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
anprompt ablations "$@"
