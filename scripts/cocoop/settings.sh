# shellcheck shell=bash disable=SC2034
# CoCoOp: which trainer and configuration a protocol uses. Sourced by the protocol's script.
TRAINER=CoCoOp
default_cfg() { # PROTOCOL DATASET
  case "$1/$2" in
    base2new/* | crossdata/* | domaingen/* | fewshot/*) echo vit_b16_c4_ep10_batch1_ctxv1 ;;
  esac
}
