"""Who was trained on attacked images, as the recorded settings of trainings say.

A trainer that attacks has `trainers.adversarial.attack_settings` in a node of its own, beside a
LOSS. Nothing here needs torch.
"""

from collections.abc import Iterable, Mapping
from typing import Any

_ATTACK = ("LOSS", "EPS", "STEP", "STEPS", "START")
# The weight of attacked images in a loss, where a setting has it.
_WEIGHTS = {"trades": "BETA", "fap": "LAMBDA"}


def attack_in_training(settings: Mapping[str, Any]) -> str:
    """Return loss, steps and bound of a training on attacked images, in words; "" for another.

    Args:
        settings: of the training, by dotted name; {} where they are not known.
    """
    ends = [key.removesuffix(".START") for key in settings if key.endswith(".START")]
    nodes = [node for node in ends if all(f"{node}.{key}" in settings for key in _ATTACK)]
    is_untrained = settings.get("RUN.EVAL_ONLY") is True and not settings.get("RUN.MODEL_DIR")
    if len(nodes) != 1 or is_untrained:  # the earliest files have every method's settings
        return ""
    loss, eps, _, steps, _ = (settings[f"{nodes[0]}.{key}"] for key in _ATTACK)
    weight = settings.get(f"{nodes[0]}.{_WEIGHTS.get(str(loss), '')}", 1)
    is_clean_ramp = loss == "ramp" and settings.get("OPTIM.MAX_EPOCH") == 1
    if not (isinstance(eps, int | float) and isinstance(steps, int)):
        return ""
    if loss == "clean" or is_clean_ramp or not (eps and steps and weight):
        return ""
    return f"LOSS {loss}, {steps} step{'s' * (steps != 1)} at {eps:g}/255"


def training_notes(rows: Iterable[tuple[str, Iterable[Mapping[str, Any]]]]) -> list[str]:
    """Return a note that names the rows trained on attacked images; none where no row was.

    Args:
        rows: names, with the settings of the trainings behind each.
    """
    names: dict[str, list[str]] = {}
    for name, trainings in rows:
        for told in filter(None, dict.fromkeys(map(attack_in_training, trainings))):
            names.setdefault(told, []).append(name)
    told = "; ".join(f"{', '.join(dict.fromkeys(own))} ({how})" for how, own in names.items())
    return [f"trained on attacked images: {told}"] if told else []
