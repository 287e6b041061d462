"""Signs that a model hides its gradients rather than withstands attacks.

Athalye et al., Obfuscated Gradients Give a False Sense of Security, 2018,
https://arxiv.org/abs/1802.00420, section 3.1; Carlini et al., On Evaluating Adversarial Robustness,
2019, https://arxiv.org/abs/1902.06705. Nothing here needs torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

STEPS = ("pgd2", "pgd10", "pgd100")
# Attacks by the gradient of the model itself. AutoAttack's set is none: it contains Square.
WHITE_BOX = ("pgd", *STEPS, "pgd100-unscaled", "pgd100-dlr", "apgd")
UNBOUNDED = 255
SLACK = 0.5  # percentage points that a weaker attack may do better by chance; one image at least
NEARLY_NONE = 1.0  # percent that may survive a change of any size


@dataclass(frozen=True)
class UnderAttacks:
    """What is left of a model's accuracy.

    Attributes:
        accuracy: in percent, by attack and bound in 255ths.
        images: how many were attacked.
    """

    accuracy: Mapping[tuple[str, int], float] = field(default_factory=dict)
    images: int = 0

    @property
    def slack(self) -> float:
        """Return the percentage points that are no sign; rounded figures are compared."""
        return max(SLACK, 100 / max(self.images, 1) + 0.01)


@dataclass(frozen=True)
class Check:
    """One sign.

    Attributes:
        name: what is looked at.
        passed: None where attacks for it were not run.
        detail: the accuracies, in words.
    """

    name: str
    passed: bool | None
    detail: str = ""


def masking_checks(model: UnderAttacks) -> list[Check]:
    """Check that stronger attacks do more harm."""
    accuracy = model.accuracy
    bounds = sorted({bound for kind, bound in accuracy if kind in STEPS and bound < UNBOUNDED})
    whitebox = {
        bound: min(
            value for (kind, own), value in accuracy.items() if own == bound and kind in WHITE_BOX
        )
        for bound in bounds
        if any(own == bound and kind == "pgd100" for kind, own in accuracy)
    }
    return [
        _falls("more steps", [[(kind, bound) for kind in STEPS] for bound in bounds], model),
        _falls("larger eps", [[("pgd100", bound) for bound in bounds]], model),
        _reaches_zero(model),
        _weaker("transfer from zero-shot CLIP", "transfer", whitebox, model),
        _weaker("Square, which needs no gradient", "square", whitebox, model),
    ]


def _falls(name: str, series: list[list[tuple[str, int]]], model: UnderAttacks) -> Check:
    accuracy = model.accuracy
    known = [[key for key in keys if key in accuracy] for keys in series]
    known = [keys for keys in known if len(keys) > 1]
    if not known:
        return Check(name, None)
    passed = all(
        accuracy[after] <= accuracy[before] + model.slack
        for keys in known
        for before, after in zip(keys, keys[1:], strict=False)
    )
    parts = [
        " > ".join(f"{kind} {bound}/255: {accuracy[kind, bound]:.1f}" for kind, bound in keys)
        for keys in known
    ]
    return Check(name, passed, "; ".join(parts))


def _reaches_zero(model: UnderAttacks) -> Check:
    value = model.accuracy.get(("pgd100", UNBOUNDED))
    if value is None:
        return Check("unbounded eps", None)
    return Check("unbounded eps", value <= NEARLY_NONE, f"pgd100 255/255: {value:.1f}")


def _weaker(name: str, kind: str, whitebox: Mapping[int, float], model: UnderAttacks) -> Check:
    accuracy = model.accuracy
    pairs = {bound: best for bound, best in whitebox.items() if (kind, bound) in accuracy}
    if not pairs:
        return Check(name, None)
    passed = all(accuracy[kind, bound] >= best - model.slack for bound, best in pairs.items())
    parts = [
        f"{bound}/255: {accuracy[kind, bound]:.1f}, white-box {best:.1f}"
        for bound, best in pairs.items()
    ]
    return Check(name, passed, "; ".join(parts))
