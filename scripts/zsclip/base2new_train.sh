#!/usr/bin/env bash
# Zero-shot CLIP, base-to-new: tests on the base half of a data set's classes (nothing is trained).
#
#   bash scripts/zsclip/base2new_train.sh DATASET [SEED] [KEY VALUE ...]     --help: all settings
exec bash "$(dirname "${BASH_SOURCE[0]}")/../base2new.sh" zsclip train "$@"
