"""AdvVPT: VPT, trained adversarially; see trainers/adversarial.py.

References:
    [0] https://github.com/xinwong/Multimodal-Adversarial-Prompt-Tuning (MIT)
"""

from dassl.engine import TRAINER_REGISTRY

from .adversarial import AdversarialTraining
from .vpt import VPT


@TRAINER_REGISTRY.register()
class AdvVPT(AdversarialTraining, VPT):
    pass
