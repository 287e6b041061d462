"""Runs of an earlier version give the numbers that it gave."""

import json
import re
from pathlib import Path

import pytest
from called import report, table
from report_pages import Reader

pytestmark = pytest.mark.slow

PROTOCOLS = ("all", "base2new", "crossdata", "domaingen", "fewshot")


@pytest.fixture
def tree(old_tree, monkeypatch) -> Path:
    monkeypatch.chdir(old_tree)  # sources of numbers are paths as the command has them
    return old_tree


def mended(text: str) -> list[str]:
    """Lines but for what is deliberately another: which rule a transfer's label names first.

    It went by the alphabet; now the source's stands first, as a sentence says. And what is bold:
    now only what is separated, and one rule for all is not compared with the method's own. And
    a note on how many test images there are. CSV has columns for measure and shots now.
    """
    text = re.sub(r"(,measure,shots|,Accuracy in %,\w*)$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\\mathbf\{([^}]*)\}", r"\1", text)
    text = re.sub(r" Bold: [^.]*\.", "", text)
    text = re.sub(r" \w+, standard error of [^}\n]*(?=})", "", text)  # in a caption
    text = text.replace("published: CLIP ViT-B/16, ", "published: ")
    lines = text.replace("class / mix", "mix / class").splitlines()
    newer = ("'a / b'", "standard error of one run's accuracy")
    return [line for line in lines if line.strip() and not any(word in line for word in newer)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("rules", [[], ["--all-rules"]], ids=["headline", "all-rules"])
def test_tables(tree, protocol, rules, capsys, monkeypatch):
    monkeypatch.setattr("anprompt.commands.table.effective_tables", lambda tables: [])  # newer
    for form in ("text", "markdown", "csv", "latex"):
        options = [*rules, "--format", form]
        options += [] if protocol == "all" else ["--protocol", protocol]
        assert table(["output_old", *options]) == 0
        name = f"{protocol}{'_all_rules' if rules else ''}.{form}"
        expected = (tree / "expected/tables" / name).read_text(encoding="utf-8")
        assert mended(capsys.readouterr().out) == mended(expected), name


def test_published_figures_and_split_configurations(tree, capsys, monkeypatch):
    monkeypatch.setattr("anprompt.commands.table.effective_tables", lambda tables: [])  # newer
    assert table(["output_old", "--published", "--split-configs"]) == 0
    expected = (tree / "expected/tables/all_published_split.text").read_text(encoding="utf-8")
    assert mended(capsys.readouterr().out) == mended(expected)


def test_figures_under_noise(tree, capsys):
    assert table(["output_old", "--protocol", "noise", "--methods", "zsclip,coop,anprompt"]) == 0
    expected = (tree / "expected/robustness.txt").read_text(encoding="utf-8")
    assert capsys.readouterr().out == expected


def rounded(value: str, by_seed: list[float]) -> tuple[float, ...]:
    """A mean and, where seeds differ, what it is the mean of."""
    seeds = [round(number, 7) for number in by_seed]
    return (round(float(value), 7), *(seeds if len(set(seeds)) > 1 else []))


def test_every_number_of_the_report(tree, tmp_path):
    page, figures = tmp_path / "report.html", tmp_path / "figures"
    assert report(["output_old", "-o", page, "--figures", figures]) == 0
    numbers = Reader(page.read_text(encoding="utf-8")).numbers
    found = {rounded(number["data-value"], []) for number in numbers}
    found |= {rounded(n["data-value"], json.loads(n.get("data-values", "[]"))) for n in numbers}
    expected = json.loads((tree / "expected/report_numbers.json").read_text(encoding="utf-8"))
    assert len(expected) > 400
    wanted = {rounded(record["value"], record["values"] or []) for record in expected}
    assert len(wanted) > 150 and not wanted - found
    recorded = list((tree / "expected/figures").glob("*.csv"))
    names = {path.name.replace("-1-shots-", "-1-shot-"): path for path in recorded}
    assert names.keys() == {path.name for path in figures.glob("*.csv")}
    for name, path in names.items():
        old = path.read_text(encoding="utf-8")
        assert (figures / name).read_text(encoding="utf-8") == old, name
