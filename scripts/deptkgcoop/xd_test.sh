#!/usr/bin/env bash
# DePT over KgCoOp, cross-dataset and domain generalisation: tests on a target what xd_train.sh learned.
#
#   bash scripts/deptkgcoop/xd_test.sh TARGET [SEED] [KEY VALUE ...]     --help: all settings
exec bash "$(dirname "${BASH_SOURCE[0]}")/../crossdata.sh" deptkgcoop test "$@"
