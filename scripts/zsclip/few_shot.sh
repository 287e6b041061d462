#!/usr/bin/env bash
# Zero-shot CLIP, few-shot: tests on all classes (nothing is trained, so K does not matter).
#
#   bash scripts/zsclip/few_shot.sh DATASET [SHOTS [SEED]] [KEY VALUE ...]     --help: all settings
exec bash "$(dirname "${BASH_SOURCE[0]}")/../fewshot.sh" zsclip "$@"
