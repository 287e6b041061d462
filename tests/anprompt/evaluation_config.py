"""A configuration for models that are built without data."""

from anprompt.runs.config import default_cfg


def evaluation_cfg(trainer, clip_path):
    """Defaults in fp32 for a trainer on the tiny CLIP, whose images have 64 pixels."""
    cfg = default_cfg()
    for node in cfg.TRAINER.values():
        if isinstance(node, dict) and "PREC" in node:
            node.PREC = "fp32"
    cfg.TRAINER.NAME = trainer
    cfg.TRAINER.COOP.CTX_INIT = "a photo of a"
    cfg.MODEL.BACKBONE.NAME = str(clip_path)
    cfg.INPUT.SIZE = (64, 64)
    cfg.INPUT.TRANSFORMS = ("normalize",)
    cfg.DATASET.NAME = "EuroSAT"
    cfg.USE_CUDA = False
    return cfg
