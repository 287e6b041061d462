"""What the report's sections share."""

from collections.abc import Iterable, Sequence

from anprompt.results.noise import Comparison, NoiseRow
from anprompt.results.report.blocks import Figures, Sentence, Shown, joined, words
from anprompt.results.report.charts import Chart
from anprompt.results.report.data import Data
from anprompt.results.report.figures import Styles
from anprompt.results.value import Value


class Context:
    """The data, one look per method, and the figures made so far."""

    def __init__(self, data: Data):
        self.data = data
        self.styles = Styles(data)
        self.charts: list[Chart] = []

    def figures(self, charts: Iterable[Chart | None]) -> list[Figures]:
        """Figures side by side, nothing for none; they are kept for --figures as well."""
        found = [chart for chart in charts if chart is not None]
        names = {chart.name for chart in self.charts}
        for chart in found:  # two names may differ in characters that no file name has
            name, number = chart.name, 2
            while chart.name in names:
                chart.name, number = f"{name}-{number}", number + 1
            names.add(chart.name)
        self.charts += found
        return [Figures(found)] if found else []

    @property
    def names(self) -> list[str]:
        """All methods, in their fixed order."""
        return [method.name for method in self.data.methods]

    def in_order(self, comparison: Comparison) -> list[NoiseRow]:
        """Rows in the fixed order of methods."""
        return sorted(comparison.rows, key=lambda row: self.styles.place(row.method.name))

    def comparison_title(self, comparison: Comparison) -> str:
        """Data set and subset of a comparison, with what tells it from another of those."""
        same = [
            other
            for other in self.data.comparisons
            if (other.dataset, other.subset) == (comparison.dataset, comparison.subset)
        ]
        details = []
        if len({other.backbone for other in same}) > 1:
            details.append(comparison.backbone.replace("\\", "/").rpartition("/")[2])
        shots = [_shots(other) for other in same]
        if len(set(shots)) > 1:
            details.append(f"{_shots(comparison)} shots")
        if len({other.images for other in same}) > 1:
            details.append(f"{comparison.images} images")
        return ", ".join([comparison.dataset, f"{comparison.subset} classes", *details])

    def ranked(self, pairs: Iterable[tuple[str, Value | None]]) -> list[tuple[list[str], Value]]:
        """Methods from the highest number down; those that print the same share a place."""
        known = [(name, value) for name, value in pairs if value is not None]
        places: list[tuple[list[str], Value]] = []
        for name, value in sorted(known, key=lambda pair: -pair[1].number):
            if places and round(places[-1][1].number, 1) == round(value.number, 1):
                places[-1][0].append(name)
            else:
                places.append(([name], value))
        return places

    def placed(self, places: Sequence[tuple[list[str], Value]]) -> Sentence:
        """The best of ranked methods, the next, and the highlighted and the baseline where they
        are neither."""

        def one(place: tuple[list[str], Value]) -> Sentence:
            each = " each" if len(place[0]) > 1 else ""
            return (f"{words(place[0])}, ", Shown(place[1], unit="%"), each)

        parts = [one(places[0])]
        if len(places) > 1:
            parts.append(("next ", *one(places[1])))
        total = sum(len(names) for names, _ in places)
        for i, place in enumerate(places[2:], start=2):
            if any(map(self.styles.is_highlight, place[0])):
                before = sum(len(names) for names, _ in places[:i])
                parts.append((*one(place), f", number {before + 1} of {total}"))
            elif any(map(self.styles.is_baseline, place[0])):
                parts.append(one(place))
        return (*joined(parts, "; "), ".")


def _shots(comparison: Comparison) -> int | None:
    known = [e.method.shots for row in comparison.rows for e in row.evaluations]
    return next((shots for shots in known if shots is not None), None)
