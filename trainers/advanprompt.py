"""AdvANPrompt: ANPrompt, trained adversarially; see trainers/adversarial.py.

A row of this project's own [O]: no paper has it. The attack is on the mixture that answers for the
classes trained on; the loss is ANPrompt's, so frozen CLIP sees the attacked images, too.
"""

from dassl.engine import TRAINER_REGISTRY

from .adversarial import AdversarialTraining
from .anprompt import ANPrompt


@TRAINER_REGISTRY.register()
class AdvANPrompt(AdversarialTraining, ANPrompt):
    pass
