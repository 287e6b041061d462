#!/usr/bin/env bash
# PromptKD, cross-dataset: trains on all classes of a source data set and tests on them.
#
#   bash scripts/promptkd/xd_train.sh SOURCE [SEED] [KEY VALUE ...]     --help: all settings
exec bash "$(dirname "${BASH_SOURCE[0]}")/../crossdata.sh" promptkd train "$@"
