"""Tables of figures under noise, and what is to be said about them."""

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence

from anprompt.results.apart import apart_notes, last
from anprompt.results.attacked_training import training_notes
from anprompt.results.noise.cells import is_attack
from anprompt.results.noise.compare import Comparison
from anprompt.results.noise.imagenet_c import imagenet_c_tables
from anprompt.results.table import Column, Row, Table
from noise.cells import GROUPS, Cell
from noise.masking import Check, UnderAttacks, masking_checks

NOISE_NOTES = [
    "Accuracy in %: mean over kinds, severities and noise seeds; +- over a method's runs.",
    "learned: noise on learned tokens. drop: clean minus noisy accuracy. same: share of",
    "answers that noise leaves as they are. ECE: calibration error. Every cell is in",
    "robustness.json.",
]

CALIBRATION = {"adaptive_ece": "A-ECE", "max_ce": "M-CE", "brier": "Brier"}
BEST = {
    **dict.fromkeys(("accuracy", "consistency", "kept"), "highest"),
    **dict.fromkeys(("drop", "ece", *CALIBRATION), "lowest"),
}


def all_tables(comparisons: Iterable[Comparison], all_kinds: bool = False) -> list[Table]:
    """Return every comparison's tables, ImageNet-C's last."""
    found: dict[tuple, list[list[Table]]] = {}
    tables = []
    for comparison in comparisons:
        own = [*noise_tables(comparison, all_kinds), *imagenet_c_tables(comparison)]
        place = comparison.dataset, comparison.subset, comparison.backbone
        others = found.setdefault(place, [])
        others.append(own)
        for table in own if len(others) > 1 else ():
            table.subject += f", test {len(others)}"  # on other images or classes
        tables += own
    return tables


def noise_tables(comparison: Comparison, all_kinds: bool = False) -> list[Table]:
    """Return the accuracies of a comparison, and the other measures."""
    there = comparison.groups
    attacks = [group for group in there if is_attack(group)]
    plain_groups = [group for group in GROUPS if group in there]
    accuracies = {"clean": ("", "accuracy")}
    accuracies |= {group: (group, "accuracy") for group in (*plain_groups, *attacks)}
    main = [group for group in ("text", "image") if group in there]
    others: dict[str, tuple[str, str]] = {
        f"{name}, {group}": (group, measure)
        for measure, name in (("drop", "drop"), ("consistency", "same"))
        for group in main
    }
    others["ECE, clean"] = ("", "ece")
    others |= {f"ECE, {group}": (group, "ece") for group in main}
    title = (
        f"{comparison.dataset}, {comparison.subset} classes, {comparison.images:,} images, "
        f"backbone {comparison.backbone}"
    )
    tables = [
        noise_table(comparison, accuracies, title, "Mean accuracy under noise, in %"),
        noise_table(comparison, others, "", "Drop in points; same answers and ECE in %"),
    ]
    # Files of earlier versions lack the other measures of calibration.
    if any(row.value("", "brier") for row in comparison.rows):
        more: dict[str, tuple[str, str]] = {
            f"kept, {group}": (group, "kept") for group in (*plain_groups, *attacks)
        }
        told = "Relative robustness (kept): share of the clean accuracy, in %"
        tables.append(noise_table(comparison, more, "", told))
        finer = {
            f"{name}, {group or 'clean'}": (group, measure)
            for measure, name in CALIBRATION.items()
            for group in ("", *main)
        }
        told = "Adaptive (A) and maximal (M) calibration error in %; Brier score"
        tables.append(noise_table(comparison, finer, "", told))
    tables = [table for table in tables if table.columns]
    tables[-1].notes += [*_notes(comparison, all_kinds), *apart_notes(tables[0])]
    return tables


def noise_table(
    comparison: Comparison, columns: dict[str, tuple[str, str]], title: str, measure: str
) -> Table:
    """Return a table with columns of (group of noise, measure), without those no row has.

    Nothing is best under an attack that was made on other images of one row than of another.
    """
    is_unlike = {group for group, _ in columns.values() if _is_unlike(comparison, group)}
    read = {name: [row.value(*what) for row in comparison.rows] for name, what in columns.items()}
    read = {name: values for name, values in read.items() if any(values)}
    return Table(
        protocol="noise",
        title=title,
        columns=[
            Column(
                name,
                3 if measure == "brier" else 1,
                "" if group in is_unlike else BEST[measure],
            )
            for name, (group, measure) in columns.items()
            if name in read
        ],
        rows=last(
            [
                Row(row.method, tuple(own[i] for own in read.values()), row.rule, (row.count,))
                for i, row in enumerate(comparison.rows)
            ]
        ),
        subject=f"{comparison.dataset}, {comparison.subset} classes",
        measure=measure,
        counted="runs",
        has_rules=True,
    )


def _is_unlike(comparison: Comparison, group: str) -> bool:
    """Return whether rows were attacked on different images; False of other noise."""
    return is_attack(group) and len(comparison.attacked_on(group)) > 1


def _notes(comparison: Comparison, all_kinds: bool) -> list[str]:
    notes = [
        f"{group}: {', '.join(kinds)}"
        for group in ("text", "image")
        if (kinds := comparison.kinds(group))
    ]
    seen = noise_seen(comparison.seen)
    if seen:
        verb = "counted although" if all_kinds else "left out because"
        notes.append(f"{verb} some model met it in training: {seen}")
    if comparison.left_out:
        notes.append(f"left out: {comparison.left_out} cells that only some of the runs have")
    notes += part_notes(comparison)
    notes += _sources(comparison) + trained_notes(comparison) + attacked_notes(comparison)
    notes += start_notes(comparison) + checkpoint_notes(comparison)
    return notes + meaning_notes(comparison) + masking_notes(comparison)


def _sources(comparison: Comparison) -> list[str]:
    """Return which rows were trained on another data set than the one tested."""
    names: dict[str, list[str]] = {}
    for row in comparison.rows:
        if source := row.evaluations[0].trained_elsewhere:
            names.setdefault(source, []).append(row.method.name)
    return [f"trained on {source}: {', '.join(own)}" for source, own in names.items()]


def part_notes(comparison: Comparison) -> list[str]:
    """Return what rows do not show because only some of their runs were measured under it."""
    return [
        f"not shown, {row.method.name}: {group} noise, measured for only {n} of its "
        f"{len(row.evaluations)} runs"
        for row in comparison.rows
        for group, n in row.in_part.items()
    ]


def trained_notes(comparison: Comparison) -> list[str]:
    """Return which rows were trained on attacked images, and how."""
    return training_notes((row.method.name, row.trained_with) for row in comparison.rows)


def attacked_notes(comparison: Comparison) -> list[str]:
    """Return on how many images rows were attacked on a part of them, and whether on the same."""
    notes = []
    for row in comparison.rows:
        first = row.evaluations[0]
        used = first.attacked["used"]
        shown = set.intersection(*map(set, row.cells))
        if any(map(is_attack, shown)) and used < comparison.images:
            clean = row.clean_of_attacked
            told = f", clean accuracy on those {clean.number:.1f}" if clean else ""
            notes.append(f"attacked, {row.method.name}: {used} of the images{told}")
    unlike = [comparison.attacked_on(g) for g in comparison.groups if _is_unlike(comparison, g)]
    for found in [own for i, own in enumerate(unlike) if own not in unlike[:i]]:
        told = "; ".join(f"{', '.join(names)}: {images}" for images, names in found.items())
        notes.append(f"not all rows were attacked on the same images (how many, digest): {told}")
    return notes


def start_notes(comparison: Comparison) -> list[str]:
    """Return a note where figures under an attack are means over several starts."""
    groups = [groups for row in comparison.rows for groups in row.cells]
    attacks = {c.seed for own in groups for name in own if is_attack(name) for c in own[name]}
    if len(attacks) < 2:
        return []
    return [f"attacked from different starts: noise seeds {', '.join(sorted(map(str, attacks)))}"]


def checkpoint_notes(comparison: Comparison) -> list[str]:
    """Return whose figures are of another checkpoint than the one that tests read."""
    found = [(row.method.name, row.evaluations[0].other_checkpoint()) for row in comparison.rows]
    return [
        f"{name}: of {file}, not of the checkpoint that tests read" for name, file in found if file
    ]


def meaning_notes(comparison: Comparison) -> list[str]:
    """Return how many noisy prompts still mean the same to the text encoder, by kind."""
    shares: dict[str, list[float]] = {}
    for row in comparison.rows:
        for evaluation in row.evaluations:
            for key, share in (evaluation.part.get("meaning_kept") or {}).items():
                shares.setdefault(Cell.from_key(key).kind, []).append(share)
    if not shares:
        return []
    listed = ", ".join(f"{kind} {statistics.fmean(own):.0f}%" for kind, own in shares.items())
    return [f"prompts within a cosine of 0.9 of the clean one, as frozen CLIP sees them: {listed}"]


def masking_notes(comparison: Comparison) -> list[str]:
    """Return for every row with attacks, the signs of masked gradients."""
    by_name = {
        row.method.name: {e.header["seed"]: e.under_attacks() for e in row.evaluations}
        for row in comparison.rows
    }
    shown = {
        row.method.name
        for row in comparison.rows
        if any(map(is_attack, set.intersection(*map(set, row.cells))))
    }
    return signs_of_masking(by_name, shown)


def signs_of_masking(
    by_name: Mapping[str, Mapping[int, UnderAttacks]], shown: Collection[str]
) -> list[str]:
    """Return the signs of masked gradients in words, once where they are the same of several.

    Every run is checked by all of its own attacks, whatever others were attacked with.

    Args:
        by_name: what attacks leave, by seed, by whose it is.
        shown: whose accuracy under an attack the table has; others are left out where nothing was
            checked.
    """
    names: dict[str, list[str]] = {}
    for name, by_seed in by_name.items():
        checks = {seed: masking_checks(left) for seed, left in by_seed.items()}
        is_checked = any(c.passed is not None for own in checks.values() for c in own)
        if name in shown or is_checked:
            names.setdefault(_told(checks), []).append(name)
    everyone = [name for name in by_name if any(name in own for own in names.values())]
    many = len(everyone) > 2
    return [
        f"masked gradients, {'all rows' if many and own == everyone else '; '.join(own)}: {told}"
        for told, own in names.items()
    ]


def _told(by_seed: Mapping[int, Sequence[Check]]) -> str:
    """Return the checks of a row's runs in words; those that failed first, with their figures."""
    failed, passed, unknown = [], [], []
    for checks in zip(*by_seed.values(), strict=True):
        name = checks[0].name
        made = {s: c for s, c in zip(by_seed, checks, strict=True) if c.passed is not None}
        only = f"{len(made)} of {len(by_seed)} seeds checked" if len(made) < len(by_seed) else ""
        details = [
            f"seed {seed}: {check.detail}" if len(by_seed) > 1 else check.detail
            for seed, check in made.items()
            if not check.passed
        ]
        if details:
            failed.append(f"{name}: FAILED ({'; '.join([*details, *([only] if only else [])])})")
        elif made:
            passed.append(f"{name} ({only})" if only else name)
        else:
            unknown.append(name)
    parts = failed
    if passed:
        parts = [*parts, f"no sign in {', '.join(passed)}"]
    if unknown:
        parts = [*parts, f"not checked (--noise masking): {', '.join(unknown)}"]
    return "; ".join(parts)


def noise_seen(seen: dict[str, list]) -> str:
    """Return kinds and seeds met in training, in words; empty for none."""
    kinds = [*seen["text_kinds"], *seen["image_kinds"]]
    if not kinds:
        return ""
    seeds = ", ".join(map(str, seen["seeds"]))
    return f"{', '.join(kinds)}" + (f" (noise seed {seeds})" if seeds else "")
