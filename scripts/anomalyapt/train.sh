#!/usr/bin/env bash
# AnomalyAPT: learns from K normal images of a category, and tests.
#
#   bash scripts/anomalyapt/train.sh DATASET CATEGORY [SHOTS [SEED]] [-- KEY VALUE ...]     --help: all settings
exec bash "$(dirname "${BASH_SOURCE[0]}")/../anomaly.sh" anomalyapt train "$@"
