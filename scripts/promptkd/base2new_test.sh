#!/usr/bin/env bash
# PromptKD, base-to-new: tests on the new half of the classes what base2new_train.sh learned.
#
#   bash scripts/promptkd/base2new_test.sh DATASET [SEED] [KEY VALUE ...]     --help: all settings
exec bash "$(dirname "${BASH_SOURCE[0]}")/../base2new.sh" promptkd test "$@"
