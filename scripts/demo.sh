#!/usr/bin/env bash
# Shows the project at work, with no data and no downloads but Python packages: zero-shot CLIP, CoOp,
# MaPLe and ANPrompt learn half of the classes of Shapes from 16 images each and are tested on both
# halves, on the small CLIP that comes with this repository; then once more under noise in text and
# images.
#
#   bash scripts/demo.sh            three seeds, all kinds of noise
#   bash scripts/demo.sh --quick    one seed, few kinds
#
# Sets the environment up first if needed. Run again, it goes on where it was stopped. Ends in a table,
# also in OUTPUT/results.md, and in a page to look at, OUTPUT/report.html; each run's log is in
# OUTPUT/logs, the figures under noise in OUTPUT/robustness.txt.
#
# Environment: OUTPUT  where results go (default: output_demo in the repository)

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
anprompt demo "$@"
