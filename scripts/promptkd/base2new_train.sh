#!/usr/bin/env bash
# PromptKD, base-to-new: trains on the base half of a data set's classes and tests on it.
#
#   bash scripts/promptkd/base2new_train.sh DATASET [SEED] [KEY VALUE ...]     --help: all settings
exec bash "$(dirname "${BASH_SOURCE[0]}")/../base2new.sh" promptkd train "$@"
