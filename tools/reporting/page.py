"""The whole page."""

from pathlib import Path

from tools.reporting import html
from tools.reporting.charts import Chart
from tools.reporting.data import Data
from tools.reporting.sections import Page

STYLE = Path(__file__).with_name("style.css")
# Folded parts would be missing on paper.
UNFOLD = """addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});"""


def render(data: Data, title: str) -> tuple[str, list[Chart]]:
    """The report as one HTML document without outside references, and its figures."""
    page = Page(data)
    sections = [
        ("overview", "Overview", page.overview()),
        ("base-new", "Base to new", page.base_new()),
        ("all-classes", "All classes", page.other_tasks()),
        ("robustness", "Under noise", page.robustness()),
        ("pictures", "Pictures", page.pictures()),
        ("ablations", "Ablations", page.ablations()),
        ("classes", "Classes", page.classes()),
        ("training", "Training", page.training()),
        ("cost", "Cost", page.cost()),
        ("sources", "Sources", page.provenance()),
    ]
    shown = [(id_, name, content) for id_, name, content in sections if content]
    links = "".join(f'<a href="#{id_}">{name}</a>' for id_, name, _ in shown)
    roots = ", ".join(f"<code>{html.text(root.as_posix())}</code>" for root in data.roots)
    document = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.text(title)}</title>
<style>
{STYLE.read_text(encoding="utf-8").strip()}
</style>
</head>
<body>
<header>
<h1>{html.text(title)}</h1>
<p class="lead">From the finished runs in {roots}. All accuracies in percent.</p>
</header>
<nav aria-label="Sections"><div>{links}</div></nav>
<main>
{"".join(content for *_, content in shown)}
</main>
<footer>Made by tools/report.py. docs/ROBUSTNESS.md explains the measures under noise.</footer>
<script>{UNFOLD}</script>
</body>
</html>
"""
    return document, page.charts
