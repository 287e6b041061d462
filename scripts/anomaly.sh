#!/usr/bin/env bash
# Anomaly detection: learn from K normal images of a category, test on normal and anomalous ones.
#
#   bash scripts/anomaly.sh METHOD train DATASET CATEGORY [SHOTS [SEED]] [-- KEY VALUE ...]
#   bash scripts/anomaly.sh METHOD test  DATASET CATEGORY [SHOTS [SEED]] [-- KEY VALUE ...]
#   bash scripts/anomalyapt/train.sh     DATASET CATEGORY [SHOTS [SEED]] [-- KEY VALUE ...]
#   bash scripts/anomalyapt/test.sh      DATASET CATEGORY [SHOTS [SEED]] [-- KEY VALUE ...]
#
#   METHOD     anomalyapt, promptad, anomalyzeroshot, anomalymemory, anomalyfusion
#   DATASET    mvtec, visa, anomaly_folder (with -- DATASET.IMAGE_DIR FOLDER), or defect_tiles, which
#              needs no data
#   CATEGORY   one, several as a,b, or all; - for a folder of your own that is one itself
#   SHOTS      normal images, one number or several as 1,2,4,8 (default: 1,2,4,8)
#   SEED       one seed, or several (default: 1,2,3,4,5)
#   KEY VALUE  settings for train.py, e.g. DATASET.OBJECT_NAME tile; give training and test the same
#
#   bash scripts/anomaly.sh anomalyfusion train defect_tiles wood 2 1
#   python -m anprompt table --protocol anomaly
#
# A training is tested when it ends; test does that again, from its checkpoint. Environment: DATA,
# OUTPUT, BACKBONE, CFG, PLUGIN, LOADEP, DRY_RUN (scripts/base2new.sh --help says what each means).
# A finished run is skipped, an interrupted one goes on where it stopped. Results:
#   OUTPUT/anomaly/train/DATASET/CATEGORY/shots_K/TRAINER/CFG/seed1
#   OUTPUT/anomaly/test/DATASET/CATEGORY/shots_K/TRAINER/CFG/seed1

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
anprompt run anomaly "$@"
