# shellcheck shell=bash disable=SC2034
# KgCoOp: which trainer and configuration a protocol uses. Sourced by the protocol's script.
TRAINER=KgCoOp
default_cfg() { # PROTOCOL DATASET
  case "$1/$2" in
    base2new/* | crossdata/* | domaingen/* | fewshot/*) echo vit_b16_ep100_ctxv1 ;;
  esac
}
