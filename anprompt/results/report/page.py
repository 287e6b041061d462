"""The whole page."""

from pathlib import Path

from anprompt.results.report import accuracy, details, html, robustness
from anprompt.results.report.charts import Chart
from anprompt.results.report.context import Context
from anprompt.results.report.data import Data

FOLDER = Path(__file__).parent
SECTIONS = (
    ("overview", "Overview", accuracy.overview),
    ("base-new", "Base to new", accuracy.base_new),
    ("few-shot", "All classes", accuracy.all_classes),
    ("transfer", "Transfer", accuracy.transfer),
    ("robustness", "Under noise", robustness.robustness),
    ("pictures", "Pictures", robustness.pictures),
    ("ablations", "Ablations", details.ablations),
    ("classes", "Classes", details.classes),
    ("training", "Training", details.training),
    ("cost", "Cost", details.cost),
    ("sources", "Sources", details.sources),
)


def render(data: Data, title: str) -> tuple[str, list[Chart]]:
    """The report as one HTML document without outside references, and its figures."""
    page = Context(data)
    shown = [(id_, name, content) for id_, name, make in SECTIONS if (content := make(page))]
    links = "".join(f'<a href="#{id_}">{name}</a>' for id_, name, _ in shown)
    roots = ", ".join(f"<code>{html.text(root.as_posix())}</code>" for root in data.roots)
    document = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.text(title)}</title>
<style>
{(FOLDER / "style.css").read_text(encoding="utf-8").strip()}
</style>
</head>
<body>
<header>
<h1>{html.text(title)}</h1>
<p class="lead">From the finished runs in {roots}. All accuracies in percent.
<span class="screen">Tap or click a number to see the files that it comes from.</span></p>
</header>
<nav aria-label="Sections"><div>{links}</div></nav>
<main>
{"".join(content for *_, content in shown)}
</main>
<footer>Made by anprompt report. docs/ROBUSTNESS.md explains the measures under noise.</footer>
<aside id="origin" hidden aria-live="polite">
<button aria-label="Close">×</button><div></div>
</aside>
<script>
{(FOLDER / "script.js").read_text(encoding="utf-8").strip()}
</script>
</body>
</html>
"""
    return document, page.charts
