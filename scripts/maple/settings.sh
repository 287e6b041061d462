# shellcheck shell=bash disable=SC2034
# MaPLe: which trainer and configuration a protocol uses. Sourced by the protocol's script.
TRAINER=MaPLe
default_cfg() { # PROTOCOL DATASET
  case "$1/$2" in
    base2new/*) echo vit_b16_c2_ep5_batch4_2ctx ;;
  esac
}
