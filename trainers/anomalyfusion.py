"""AnomalyFusion: hand-written words and the memory of normal patches, by harmonic mean [O].

Text, memory and both are all measured; ``TRAINER.ANOMALY.FUSE`` says which is reported.
"""

from __future__ import annotations

from dassl.engine import TRAINER_REGISTRY

from .anomaly.model import HARMONIC, MEMORY, TEXT
from .anomalyzeroshot import AnomalyZeroShot


@TRAINER_REGISTRY.register()
class AnomalyFusion(AnomalyZeroShot):
    rules = (HARMONIC, TEXT, MEMORY)
