"""The whole page, from templates that escape every text."""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from anprompt.results.marks import marks
from anprompt.results.render import number_text
from anprompt.results.report import accuracy, details, noise
from anprompt.results.report.blocks import Section
from anprompt.results.report.charts import DASH_ARRAYS, MARKER_PATHS, Chart, to_svg
from anprompt.results.report.context import Context
from anprompt.results.report.data import Data, code_of, code_text, recorded
from anprompt.results.report.explorer import Explorer
from anprompt.results.table import Column, Row
from anprompt.results.value import Value
from common.text import plain

TEMPLATES = Path(__file__).parent / "templates"
SECTIONS = (
    accuracy.overview,
    accuracy.base_new,
    accuracy.all_classes,
    accuracy.transfer,
    accuracy.attacks,
    noise.robustness,
    noise.pictures,
    details.answers,
    details.ablations,
    details.classes,
    details.training,
    details.settings,
    details.cost,
    details.sources,
)


def render(data: Data, title: str, made: dict[str, Any]) -> tuple[str, list[Chart]]:
    """Return the report as one HTML document without outside references, and its figures.

    Args:
        made: by which command and version of this code the page is made (`common.provenance`).
    """
    page = Context(data)
    sections: list[Section] = [found for make in SECTIONS if (found := make(page))]
    dates = [date[:10] for date in recorded(data.runs, "date")]
    document = _environment(page).get_template("page.html.j2").render(
        title=title,
        sections=sections,
        data=_without_controls(
            {
                "methods": [_look(page, name) for name in page.names],
                "explorer": Explorer(page).as_dict(),
                "tests": page.tests,
                "settings": page.settings,
            }
        ),
        roots=[root.as_posix() for root in data.roots],
        dates=list(dict.fromkeys([*dates[:1], *dates[-1:]])),
        hosts=recorded(data.runs, "host"),
        code=code_of(data.runs),
        command=made["command"],
        version=code_text(made["code"]),
    )  # fmt: skip
    return document, page.charts


def _look(page: Context, name: str) -> dict[str, Any]:
    number = page.styles.number(name) or 0
    is_highlight = page.styles.is_highlight(name)
    return {"name": plain(name), "colour": number % 12, "highlight": is_highlight}


def _without_controls(value: Any) -> Any:
    """Return plain data with texts that have no control characters."""
    if isinstance(value, dict):
        return {_without_controls(key): _without_controls(own) for key, own in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_controls(own) for own in value]
    return plain(value) if isinstance(value, str) else value


def _environment(page: Context) -> Environment:
    """Return the templates' surroundings: text is escaped and has no control characters."""

    def finalize(value: Any) -> Any:
        return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    styles = page.styles

    def links(row: Row) -> list[str]:
        files = [run.file for run in row.runs]
        return [page.data.ids[file] for file in dict.fromkeys(files)]

    def mark(name: str) -> dict[str, Any]:
        number = styles.number(name) or 0
        return {
            "colour": number % 12,
            "width": 2.4 if styles.is_highlight(name) else 1.6,
            "dash": "" if styles.is_highlight(name) else DASH_ARRAYS[number % len(DASH_ARRAYS)],
            "path": MARKER_PATHS[number % len(MARKER_PATHS)],
        }

    environment.globals.update(
        best=lambda table: marks(table).best,
        is_highlight=styles.is_highlight,
        links=links,
        mark=mark,
        number_of=lambda name: page.names.index(name) if name in page.names else None,
        number_text=_number_text,
        read=lambda name: Markup((TEMPLATES / name).read_text(encoding="utf-8").strip()),
        styles=styles,
        svg=lambda chart: Markup(to_svg(chart)),
        to_json=_to_json,
    )
    return environment


def _number_text(number: float, column: Column) -> str:
    """Return a number as the page writes it: thousands apart, a true minus."""
    shown = number_text(number, column)
    whole, dot, rest = shown.partition(".")
    sign, digits = (whole[0], whole[1:]) if whole[:1] in ("+", "-") else ("", whole)
    return f"{sign}{int(digits):,}{dot}{rest}".replace("-", "−")


def _to_json(value: Any) -> str:
    """Return compact JSON; templates escape it."""
    if isinstance(value, Value):
        value = list(value.by_seed.values())
    return plain(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
