"""What the report's sections share."""

from collections.abc import Iterable, Sequence

from anprompt.results.report import html
from anprompt.results.report.charts import Chart
from anprompt.results.report.data import Data, Source
from anprompt.results.report.figures import Styles
from anprompt.results.report.numbers import Number, count
from anprompt.robustness.table import Comparison, Row


class Context:
    """The data, one look per method, and the figures made so far."""

    def __init__(self, data: Data):
        self.data = data
        self.styles = Styles(data)
        self.charts: list[Chart] = []

    def figures(self, charts: Iterable[Chart | None]) -> str:
        """Figures side by side; they are kept for --figures as well."""
        found = [chart for chart in charts if chart is not None]
        self.charts += found
        return html.figures(found)

    def name(self, method: str, note: str = "") -> str:
        """A row's name, with the method's colour."""
        return html.name_cell(method, self.styles.number(method) % 12, note)

    def legend(self, methods: Sequence[str]) -> str:
        items = "".join(
            f"<li>{html.mark(self.styles.number(m), self.styles.is_highlight(m))}"
            f"{html.text(m)}</li>"
            for m in methods
        )
        return f'<ul class="legend">{items}</ul>'

    def in_order(self, comparison: Comparison) -> list[Row]:
        return sorted(comparison.rows, key=lambda row: self.data.methods.index(row.method))

    def title(self, task: str, table: tuple[str, int]) -> str:
        """A table's data set, with its shots where there are several."""
        dataset, shots = table
        several = len({s for name, s in self.data.tables(task) if name == dataset}) > 1
        return f"{dataset}, {shots} shots" if several else dataset

    def is_trainer(self, method: str, trainer: str) -> bool:
        return method.split(" (")[0] == trainer

    def comparison_title(self, comparison: Comparison) -> str:
        """Data set and part of a comparison, with what tells it from another of those."""
        same = [
            other
            for other in self.data.comparisons
            if (other.dataset, other.part) == (comparison.dataset, comparison.part)
        ]
        header = comparison.rows[0].evaluations[0].header
        details = []
        if len({other.backbone for other in same}) > 1:
            details.append(comparison.backbone.replace("\\", "/").rpartition("/")[2])
        if len({o.rows[0].evaluations[0].header["shots"] for o in same}) > 1:
            details.append(f"{header['shots']} shots")
        if len({other.images for other in same}) > 1:
            details.append(f"{comparison.images} images")
        return ", ".join([comparison.dataset, f"{comparison.part} classes", *details])


def seeds(sources: Sequence[Source]) -> Number:
    """How many seeds were run."""
    return count([f"{source.path}#seed" for source in sources])


def links(ids: Sequence[str]) -> str:
    """A cell with the runs' numbers, leading to the list of files."""
    shown = " ".join(f'<a href="#{id_}">{id_}</a>' for id_ in ids)
    return html.element("td", shown, class_="left")


def left(value: object) -> str:
    """A cell of text."""
    return html.element("td", html.text(value), class_="left")


def words(names: Sequence[str]) -> str:
    """Names as a list in a sentence, escaped."""
    shown = [html.text(name) for name in names]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
