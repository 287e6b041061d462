# shellcheck shell=bash disable=SC2034
# VPT: which trainer and configuration a protocol uses. Sourced by the protocol's script.
TRAINER=VPT
default_cfg() { # PROTOCOL DATASET
  case "$1/$2" in
    base2new/* | crossdata/* | domaingen/* | fewshot/*) echo vit_b16_c2_ep5_batch4_4 ;;
  esac
}
