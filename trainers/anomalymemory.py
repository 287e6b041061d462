"""AnomalyMemory: how far a patch is from every patch of a few normal images.

No text, nothing learned. A patch's score is half of 1 - cosine to the nearest remembered one, the
mean over two blocks of the image tower [A: PromptAD]; the memory takes turned copies too [O].

References:
    [0] Roth et al., Towards Total Recall in Industrial Anomaly Detection, 2022 (PatchCore)
    [1] Li et al., PromptAD, 2024, https://arxiv.org/abs/2404.05231
"""

from __future__ import annotations

from dassl.engine import TRAINER_REGISTRY

from .anomaly.model import MEMORY
from .anomalyzeroshot import AnomalyZeroShot


@TRAINER_REGISTRY.register()
class AnomalyMemory(AnomalyZeroShot):
    rules = (MEMORY,)
