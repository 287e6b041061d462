#!/usr/bin/env bash
# ZeroshotCLIP2, cross-dataset and domain generalisation: tests on a target data set.
#
#   bash scripts/zsclip2/xd_test.sh TARGET [SEED] [KEY VALUE ...]     --help: all settings
exec bash "$(dirname "${BASH_SOURCE[0]}")/../crossdata.sh" zsclip2 test "$@"
