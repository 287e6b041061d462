"""Whether an evaluation may go on from the figures that are there.

What does not go with them is refused before anything is measured: averages would mix unlike things,
and dropping the old ones could lose hours.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from anprompt.results.noise.files import Evaluation
from anprompt.robustness.plan import Plan
from anprompt.robustness.store import Results, Store
from common.errors import UsageError
from noise.cells import Cell

ATTACKED_IN = "fp32"  # in half precision small gradients become zero


def check_distinct(subset: str, stores: Iterable[Store]) -> None:
    """Refuse two trainings that tables could not tell apart, before either is measured."""
    known: dict[tuple, Path] = {}
    for store in stores:
        evaluation = Evaluation(store.path, store.content, subset, {})
        method, seed = evaluation.method, store.content["seed"]
        other = known.setdefault((method, evaluation.dataset, seed), store.path)
        if method.learns and other != store.path:
            raise UsageError(
                f"{other.parent} and {store.path.parent} are the same method, data set and seed; "
                "name only the folder of one"
            )


def check_attacked(store: Store, name: str, content: dict[str, Any], keys: list[str]) -> None:
    """Refuse attacks on other images than those that some were made on already."""
    used, digest = content["images"]["used"], images_digest(keys)
    has_attacks = any(key.startswith("adversarial/") for key in content["cells"])
    known = content.get("attacked") or {"used": used, "sha256": content["images"]["sha256"]}
    if has_attacks and known["sha256"] != digest:
        raise UsageError(
            f"{store.path}: attacks on its {name} classes were made on {known['used']} images, not "
            f"on these {len(keys)}. Give the same --attack-images, or pass --redo to begin anew"
        )
    kept = content.pop("attacked", None) or {}  # without an attack, of one that was interrupted
    if len(keys) < used:
        content["attacked"] = {**(kept if has_attacks else {}), "used": len(keys), "sha256": digest}


def check_start(store: Store, name: str, content: dict[str, Any], plan: Plan) -> None:
    """Refuse attacks from another start than those that are there: a figure is of one start."""
    wanted = {"adversarial": bool(plan.attacks), "worst-text": plan.worst_text}
    known = [Cell.from_key(key) for key in content["cells"]]
    starts = {cell.seed for cell in known if wanted.get(cell.group)}
    if starts - {plan.seeds[0]}:
        before = ", ".join(sorted(map(str, starts)))
        raise UsageError(
            f"{store.path}: attacks on its {name} classes started from noise seed {before}, not "
            f"{plan.seeds[0]}. Name the same seed first in --seeds, or pass --redo to begin anew"
        )


def check_precision(store: Store, name: str, results: Results, now: str, attacks: bool) -> None:
    """Refuse figures in another precision than those that are there; attacks have their own.

    Args:
        attacks: whether some are asked for, and so decide the precision.
    """
    before, cells = results.content.get("precision"), results.content["cells"]
    if before is None and results.content["clean"]:
        return  # of an earlier version, which does not say
    if before not in (None, now):
        how = "Pass --redo to begin anew"
        if now == ATTACKED_IN and attacks:
            how = f"Ask for attacks in a call of their own (--noise eps1), or {how.lower()}"
        elif before == ATTACKED_IN and any(key.startswith("adversarial/") for key in cells):
            how = f"Name an attack beside the noise (--noise image,eps1) to go on, or {how.lower()}"
        raise UsageError(
            f"{store.path}: its {name} classes were evaluated in {before}, not in {now} (attacks "
            f"always are in {ATTACKED_IN}). {how}"
        )
    results.set("precision", now)


def images_digest(keys: Sequence[str]) -> str:
    """Return a digest of which images these are."""
    # Names of files may hold bytes that are no text.
    content = "\n".join(keys).encode("utf-8", "surrogateescape")
    return hashlib.sha256(content).hexdigest()[:16]
