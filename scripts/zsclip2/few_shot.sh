#!/usr/bin/env bash
# ZeroshotCLIP2, few-shot: tests on all classes (nothing is trained, so K does not matter).
#
#   bash scripts/zsclip2/few_shot.sh DATASET [SHOTS [SEED]] [KEY VALUE ...]     --help: all settings
exec bash "$(dirname "${BASH_SOURCE[0]}")/../fewshot.sh" zsclip2 "$@"
