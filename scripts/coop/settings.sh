# shellcheck shell=bash disable=SC2034
# CoOp: which trainer and configuration a protocol uses. Sourced by the protocol's script.
TRAINER=CoOp
default_cfg() { # PROTOCOL DATASET
  case "$1/$2" in
    base2new/imagenet) echo vit_b16_ep50_ctxv1 ;;
    base2new/*) echo vit_b16_ctxv1 ;;
  esac
}
