"""Names of trained models, made of their settings and checkpoint. Nothing here needs PyTorch."""

import hashlib
import json
from pathlib import Path
from typing import Any

from anprompt.runs.recorded import CONFIG, flatten, recorded_config
from common.reading import read_yaml

# What decides a model's answers, beside its checkpoint.
DECISIVE = ("TRAINER.", "MODEL.", "INPUT.", "RUN.WEIGHTS", "DATASET.NAME", "DATASET.TEMPLATE")
WITHOUT_EFFECT = ("MODEL.CLASSES_AT_ONCE", "MODEL.INIT_WEIGHTS")
# What earlier versions left out of a fingerprint.
_PLACES = {
    *("OUTPUT_DIR", "RESUME", "VERBOSE", "USE_CUDA", "DATASET.ROOT", "DATASET.SUBSAMPLE_CLASSES"),
    *("DATALOADER.NUM_WORKERS", "DATALOADER.CACHE_IMAGES_MB", "RUN.MODEL_DIR"),
    *("TRAIN.PRINT_FREQ", "TRAIN.CHECKPOINT_FREQ"),
}


def fingerprint(folder: Path, checkpoint: Path | None) -> str:
    """Return a name of a run's model: another one after training anew or with other settings that
    matter, the same after a move and in later versions.
    """
    recorded = recorded_config(folder) or {}
    kept = {
        key: value
        for key, value in recorded.items()
        if key.startswith(DECISIVE) and key not in WITHOUT_EFFECT
    }
    return _digest(kept, checkpoint)


def earlier_fingerprint(folder: Path, checkpoint: Path | None) -> str:
    """Return the name that earlier versions gave a run's model; "" for a run of this version.

    They took all settings but those of other methods.
    """
    content = read_yaml(folder / CONFIG)
    recorded = flatten(content) if isinstance(content, dict) else {}
    methods = recorded.get("RUN.METHODS")
    if not isinstance(methods, list):
        return ""
    kept = {
        key: value
        for key, value in recorded.items()
        if key not in _PLACES
        and (not key.startswith("TRAINER.") or key.split(".")[1] in ("NAME", *methods))
    }
    return _digest(kept, checkpoint)


def _digest(settings: dict[str, Any], checkpoint: Path | None) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    if checkpoint is not None:
        digest.update(checkpoint.read_bytes())
    return digest.hexdigest()[:16]
