# shellcheck shell=bash disable=SC2034
# CoOp: which trainer and configuration a protocol uses. Sourced by the protocol's script.
# Few-shot: its paper's schedules, longer for more images a class. Elsewhere as CoCoOp's paper has it.
TRAINER=CoOp
default_cfg() { # PROTOCOL DATASET SHOTS (of crossdata: SOURCE)
  case "$1/$2/$3" in
    base2new/imagenet/* | crossdata/*) echo vit_b16_ep50_ctxv1 ;;
    base2new/*) echo vit_b16_ctxv1 ;;
    fewshot/imagenet/* | fewshot/*/1) echo vit_b16_ep50 ;;
    fewshot/*/[234]) echo vit_b16_ep100 ;;
    fewshot/*) echo vit_b16 ;;
  esac
}
