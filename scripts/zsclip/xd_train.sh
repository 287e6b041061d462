#!/usr/bin/env bash
# Zero-shot CLIP, cross-dataset: tests on all classes of a source data set (nothing is trained).
#
#   bash scripts/zsclip/xd_train.sh SOURCE [SEED] [KEY VALUE ...]     --help: all settings
exec bash "$(dirname "${BASH_SOURCE[0]}")/../crossdata.sh" zsclip train "$@"
