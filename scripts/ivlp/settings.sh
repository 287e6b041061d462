# shellcheck shell=bash disable=SC2034
# IVLP: which trainer and configuration a protocol uses. Sourced by the protocol's script.
TRAINER=IVLP
default_cfg() { # PROTOCOL DATASET
  case "$1/$2" in
    base2new/* | crossdata/* | domaingen/* | fewshot/*) echo vit_b16_c2_ep5_batch4_2+2ctx ;;
  esac
}
