#!/usr/bin/env bash
# DePT over KgCoOp, few-shot: trains on K images of every class and tests on all classes.
#
#   bash scripts/deptkgcoop/few_shot.sh DATASET [SHOTS [SEED]] [KEY VALUE ...]     --help: all settings
exec bash "$(dirname "${BASH_SOURCE[0]}")/../fewshot.sh" deptkgcoop "$@"
