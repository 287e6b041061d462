#!/usr/bin/env bash
# Zero-shot CLIP, base-to-new: tests on the new half of a data set's classes.
#
#   bash scripts/zsclip/base2new_test.sh DATASET [SEED] [KEY VALUE ...]     --help: all settings
exec bash "$(dirname "${BASH_SOURCE[0]}")/../base2new.sh" zsclip test "$@"
