# shellcheck shell=bash disable=SC2034
# MMRL++: which trainer and configuration a protocol uses. Sourced by the protocol's script.
TRAINER=MMRLpp
default_cfg() { # PROTOCOL DATASET SHOTS (of crossdata: SOURCE)
  case "$1/$2" in
    base2new/imagenet | fewshot/imagenet) echo vit_b16_imagenet ;;
    base2new/*) echo vit_b16 ;;
    crossdata/*) echo vit_b16_cross_datasets ;;
    fewshot/*) echo vit_b16_few_shot ;;
  esac
}
