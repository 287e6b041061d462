"""What the report's sections share."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from anprompt.results.method import shots_in_words
from anprompt.results.noise.compare import Comparison, NoiseRow
from anprompt.results.report import answers
from anprompt.results.report.blocks import Block, Sentence, Shown, joined, words
from anprompt.results.report.charts import Chart
from anprompt.results.report.data import Data
from anprompt.results.report.figures import Styles
from anprompt.results.value import Value, minus


class Context:
    """The data, one look per method, and the figures made so far."""

    def __init__(self, data: Data):
        self.data = data
        self.styles = Styles(data)
        self.names = [method.name for method in data.methods]  # in their fixed order
        self.charts: list[Chart] = []

    @cached_property
    def tests(self) -> list[dict[str, Any]]:
        """Return what predictions say of each test (see ``answers``)."""
        return answers.tests(self.data)

    @cached_property
    def settings(self) -> list[dict[str, Any]]:
        """Return runs whose settings can be compared (see ``answers``)."""
        return answers.settings(self.data)

    def figures(
        self, charts: Iterable[Chart | None], legend: Iterable[str] | None = None
    ) -> list[Block]:
        """Return a legend and figures, nothing for none; --figures writes them as well."""
        found = [chart for chart in charts if chart is not None]
        taken = {chart.name for chart in self.charts}
        for chart in found:  # two names may differ in characters that no file name has
            name, number = chart.name, 2
            while chart.name in taken:
                chart.name, number = f"{name}-{number}", number + 1
            taken.add(chart.name)
        self.charts += found
        shown = [] if legend is None else [Block("legend", list(legend))]
        return [*shown, Block("figures", found)] if found else []

    def in_order(self, comparison: Comparison) -> list[NoiseRow]:
        """Return rows in the fixed order of methods."""
        return sorted(comparison.rows, key=lambda row: self.names.index(row.method.name))

    def comparison_title(self, comparison: Comparison) -> str:
        """Return data set and subset of a comparison, with what tells it from another of those."""
        same = [
            other
            for other in self.data.comparisons
            if (other.dataset, other.subset) == (comparison.dataset, comparison.subset)
        ]
        details = []
        if len({other.backbone for other in same}) > 1:
            details.append(comparison.backbone.replace("\\", "/").rpartition("/")[2])
        if len({other.shots for other in same}) > 1 and comparison.shots is not None:
            details.append(shots_in_words([comparison.shots]))
        if len({other.images for other in same}) > 1:
            details.append(f"{comparison.images} images")
        return ", ".join([comparison.dataset, f"{comparison.subset} classes", *details])

    def first(
        self, title: str, pairs: Iterable[tuple[str, Value | None]], error: float | None
    ) -> list[Sentence]:
        """Say who has the highest number, who the next, and where highlight and baseline are.

        Methods whose numbers print the same share a place. Nothing with fewer than two methods.

        Args:
            error: the standard error of one accuracy.
        """
        known = [(name, value) for name, value in pairs if value is not None]
        places: list[tuple[list[str], Value]] = []
        for name, value in sorted(known, key=lambda pair: -pair[1].number):
            if places and round(places[-1][1].number, 1) == round(value.number, 1):
                places[-1][0].append(name)
            else:
                places.append(([name], value))
        if len(known) < 2:
            return []

        def one(names: list[str], value: Value) -> Sentence:
            return (f"{words(names)}, ", Shown(value, unit="%"), " each" * (len(names) > 1))

        parts = [(f"{title} ", *one(*places[0]))]
        if len(places) > 1:
            parts.append(("next ", *one(*places[1])))
        for i, (names, value) in enumerate(places[2:], start=2):
            if any(map(self.styles.is_highlight, names)):
                before = sum(len(above) for above, _ in places[:i])
                parts.append((*one(names, value), f", number {before + 1} of {len(known)}"))
            elif any(map(self.styles.is_baseline, names)):
                parts.append(one(names, value))
        lead = minus(places[0][1], places[1][1]) if len(places) > 1 else None
        interval = self.data.evidence.interval(places[0][1], places[1][1]) if lead else None
        if lead and interval:
            end = f" points, 95% interval {interval[0]:.1f} to {interval[1]:.1f}"
            parts.append(("the lead is ", Shown(lead), end))
        elif lead and error is not None:
            more = "more" if lead.number > 2 * error else "no more"
            start, end = "the lead, ", f" points, is {more} than twice the standard error of one"
            parts.append((start, Shown(lead), f"{end} accuracy ({error:.1f})"))
        return [(*joined(parts, "; "), ".")]
