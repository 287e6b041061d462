#!/usr/bin/env bash
# Zero-shot CLIP, cross-dataset and domain generalisation: tests on a target data set.
#
#   bash scripts/zsclip/xd_test.sh TARGET [SEED] [KEY VALUE ...]     --help: all settings
exec bash "$(dirname "${BASH_SOURCE[0]}")/../crossdata.sh" zsclip test "$@"
