"""AdvCoOp: CoOp, trained adversarially; see trainers/adversarial.py.

References:
    [0] https://github.com/xinwong/Multimodal-Adversarial-Prompt-Tuning (MIT)
"""

from dassl.engine import TRAINER_REGISTRY

from .adversarial import AdversarialTraining
from .coop import CoOp


@TRAINER_REGISTRY.register()
class AdvCoOp(AdversarialTraining, CoOp):
    pass
