#!/usr/bin/env bash
# PromptKD, cross-dataset and domain generalisation: tests on a target what xd_train.sh learned.
#
#   bash scripts/promptkd/xd_test.sh TARGET [SEED] [KEY VALUE ...]     --help: all settings
exec bash "$(dirname "${BASH_SOURCE[0]}")/../crossdata.sh" promptkd test "$@"
