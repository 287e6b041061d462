#!/usr/bin/env bash
# Puts every model that was trained on base classes below OUTPUT under noise, data set by data set, and
# writes the report.
#
#   bash scripts/robustness.sh [DATASET ...] [-- OPTIONS OF python -m anprompt robustness]
#
#   DATASET  folders of OUTPUT/base2new/train_base: shapes, eurosat, ... (default: all that are there)
#
#   bash scripts/robustness.sh
#   OUTPUT=output_demo bash scripts/robustness.sh -- --images 72     what scripts/demo.sh trained
#   DATA=/path/to/datasets bash scripts/robustness.sh eurosat -- --severities 1,3,5 --seeds 1
#
# Goes on where it was stopped. Figures go to each run's robustness.json, the page to
# OUTPUT/report.html.
#
# Environment: OUTPUT        where the runs are (default: output/ in the repository)
#              DATA          folder that holds the data sets, if it has moved since training
#              SHOTS         which runs (default: 16)
#              DESCRIPTIONS  folder of <data set>.json files {class name: [sentences]} for the noise
#                            kind "description" (default: configs/descriptions, which has Shapes)

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
anprompt robustness-report "$@"
