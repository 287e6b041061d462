#!/usr/bin/env bash
# PromptKD, few-shot: trains on K images of every class and tests on all classes.
#
#   bash scripts/promptkd/few_shot.sh DATASET [SHOTS [SEED]] [KEY VALUE ...]     --help: all settings
exec bash "$(dirname "${BASH_SOURCE[0]}")/../fewshot.sh" promptkd "$@"
