"""What tells methods apart, and what they are called."""

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Method:
    """A trainer with what it was run with. Equal methods may share a row of a table.

    Attributes:
        config: name of its configuration, without the backbone; "" where rows may differ in it.
        shots: None where columns are shots, or nothing is learned; below 1 (`ALL_IMAGES`) where
            there is no such limit.
        origin: "log.txt" for runs of upstream's code, else "".
        note: what else tells it from others ("trained on base classes", "unfinished").
        learns: False for methods without training, which no seed changes.
        name: how it is shown.
    """

    trainer: str
    config: str = ""
    backbone: str = ""
    shots: int | None = None
    origin: str = ""
    note: str = ""
    learns: bool = True
    name: str = ""


DETAILS = ("config", "backbone", "shots", "origin", "note")
EVERYWHERE = ("backbone", "shots")


def shots_in_words(shots: Iterable[int]) -> str:
    """Return numbers of shots in words.

    >>> shots_in_words([1]), shots_in_words([4, -1, 1])
    ('1 shot', '1, 4 shots, all images')
    """
    found = sorted(set(shots))
    few = [number for number in found if number > 0]
    told = [f"{', '.join(map(str, few))} shot{'' if few == [1] else 's'}"] if few else []
    return ", ".join([*told, *(["all images"] if len(found) > len(few) else [])])


def with_names(methods: Iterable[Method]) -> dict[Method, Method]:
    """Return methods with a short name each: the trainer's, and what tells it from others.

    That is the backbone and the shots wherever the methods differ in them, so that no name hides
    an unfair comparison; anything else where two methods of one trainer differ in it.
    """
    found = list(dict.fromkeys(methods))

    def differing(among: list[Method]) -> set[str]:
        values = {name: {getattr(method, name) for method in among} - {None} for name in DETAILS}
        return {name for name, own in values.items() if len(own) > 1}

    everywhere = differing(found) & set(EVERYWHERE)

    def name(method: Method) -> str:
        own = differing([other for other in found if other.trainer == method.trainer])
        shown = [
            shots_in_words([value]) if detail == "shots" else str(value)
            for detail in DETAILS
            if detail in everywhere | own and (value := getattr(method, detail)) not in ("", None)
        ]
        return f"{method.trainer} ({', '.join(shown)})" if shown else method.trainer

    return {method: replace(method, name=name(method)) for method in found}
