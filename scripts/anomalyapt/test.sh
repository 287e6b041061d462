#!/usr/bin/env bash
# AnomalyAPT: tests what train.sh learned.
#
#   bash scripts/anomalyapt/test.sh DATASET CATEGORY [SHOTS [SEED]] [-- KEY VALUE ...]     --help: all settings
exec bash "$(dirname "${BASH_SOURCE[0]}")/../anomaly.sh" anomalyapt test "$@"
