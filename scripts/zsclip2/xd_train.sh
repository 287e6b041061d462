#!/usr/bin/env bash
# ZeroshotCLIP2, cross-dataset: tests on all classes of a source data set (nothing is trained).
#
#   bash scripts/zsclip2/xd_train.sh SOURCE [SEED] [KEY VALUE ...]     --help: all settings
exec bash "$(dirname "${BASH_SOURCE[0]}")/../crossdata.sh" zsclip2 train "$@"
