"""python -m anprompt report: its numbers are those of the files, and the page stands alone."""

import csv
import html
import json
import re
import shutil
import statistics
from pathlib import Path

import pytest
from called import report, robustness
from report_pages import Reader, computed
from runs_of_tests import run_folder

from anprompt.results.report import explorer, noise

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def output(trained_output, tmp_path_factory) -> Path:
    """Trained runs, evaluated under a little noise."""
    folder = tmp_path_factory.mktemp("reported") / "output"
    shutil.copytree(trained_output, folder)
    small = ["--noise", "char,embed,blur,occlusion,both,learned", "--severities", "2,4"]
    arguments = ["--model-dir", str(folder), *small, "--seeds", "1", "--images", "10"]
    assert robustness(arguments) == 0
    return folder


@pytest.fixture(scope="module")
def page(output, tmp_path_factory) -> tuple[str, Reader, Path]:
    folder = tmp_path_factory.mktemp("page")
    path, figures = folder / "report.html", folder / "figures"
    assert report([str(output), "-o", str(path), "--figures", str(figures)]) == 0
    document = path.read_text(encoding="utf-8")
    return document, Reader(document), figures


NUMBER = r"[+−]?[\d,]+(?:\.\d+)?"


def test_every_number_is_what_its_files_say(page):
    operations = set()
    for number in page[1].numbers:
        source = json.loads(number["data-source"])
        operations.add("leaf" if isinstance(source, str) else source[0])
        value = computed(source)
        assert float(number["data-value"]) == pytest.approx(value, rel=1e-8, abs=1e-8), number
        shown, _, deviation = re.sub(r"[%s✓✗]", "", number["shown"]).partition("±")
        digits = len(shown.strip().partition(".")[2])
        plain = float(shown.strip().replace("−", "-").replace(",", ""))
        assert plain == pytest.approx(round(value, digits)), number
        if deviation:
            values = [computed(part) for part in source[1:]]
            expected = round(statistics.pstdev(values), digits)
            assert float(deviation.replace(",", "")) == pytest.approx(expected), number
        if "data-values" in number:
            values = json.loads(number["data-values"])
            assert values == pytest.approx([computed(part) for part in source[1:]])
    assert operations == {"mean", "hm", "minus", "over", "count", "percent", "leaf"}
    assert len(page[1].numbers) > 300


def test_no_number_in_a_table_is_without_source(page):
    whole = rf"{NUMBER}(?: ± {NUMBER})?(?: / {NUMBER})?"
    numbers = [cell for cell in page[1].cells if re.fullmatch(whole, cell[0].strip())]
    assert len(numbers) > 200
    assert all(traced for _, traced in numbers), [text for text, traced in numbers if not traced]


def test_means_under_noise_leave_out_what_training_met(page):
    """ANPrompt trained with char: no mean over several kinds contains it."""
    patterns = [
        part
        for number in page[1].numbers
        for part in re.findall(r"cells/(?:text|both)/\{([^}]*)\}", number["data-source"])
    ]
    assert any("embed" in names for names in patterns)
    assert all(names == "char" or "char" not in re.split("[,+]", names) for names in patterns)


def test_the_page_stands_alone(page):
    document, reader, _ = page
    assert all(loaded.startswith("data:") for loaded in reader.loaded)
    assert reader.loaded, "example pictures are embedded"
    assert "default-src 'none'" in document
    assert not re.search(r"url\((?!#|\s*data:)", document)
    assert "@import" not in document and "<script src" not in document
    assert "prefers-color-scheme: dark" in document and "@media print" in document
    assert 'name="viewport"' in document


def test_ids_are_unique_and_links_lead_somewhere(page):
    _, reader, _ = page
    assert len(reader.ids) == len(set(reader.ids))
    assert reader.links
    for link in reader.links:
        assert link.startswith("#") and link[1:] in reader.ids, link


def test_what_is_shown(page, output):
    document, reader, _ = page
    text = " ".join(reader.text)
    for name in ("ZeroshotCLIP", "CoOp", "MaPLe", "ANPrompt"):
        assert name in text
    for heading in ("Base to new", "Under noise", "Pictures and answers", "Class by class",
                    "Training", "Cost", "Where the numbers come from"):  # fmt: skip
        assert heading in text
    assert "char†" in text, "kinds that a method trained with are marked"
    assert "class everywhere" in text, "one rule for all stands beside the protocol's"
    # every run's file is named
    for path in output.rglob("results.json"):
        assert path.as_posix() in text


def test_figures_as_files(page):
    document, reader, figures = page
    names = {path.stem for path in figures.glob("*.png")}
    for form in ("csv", "pdf", "svg"):
        assert names == {path.stem for path in figures.glob(f"*.{form}")}
    assert names <= set(reader.ids)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures.glob("*.png"))
    with open(figures / "base-new-eurosat.csv") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert len(rows) == 4
    value = float(rows["CoOp"]["base_mean"])
    means = [float(c["data-value"]) for c in reader.numbers if "/CoOp/" in c["data-source"]]
    assert any(value == pytest.approx(mean) for mean in means)
    for path in figures.glob("*.csv"):
        for row in csv.DictReader(path.open()):
            for name in (name for name in row if name.endswith("source")):
                about = name.removesuffix("source")
                (column,) = [
                    c
                    for c in row
                    if c != name
                    and c in (about[:-1], f"{about}mean", f"{about}change")
                    or (name == "source" and c.endswith("_mean"))
                ]
                assert float(row[column]) == pytest.approx(computed(json.loads(row[name]))), path
    assert any(name.startswith("severity-eurosat") for name in names)
    assert "training-eurosat-loss" in names


def test_same_runs_same_page(output, page, tmp_path):
    path = tmp_path / "again.html"
    assert report([str(output), "-o", str(path)]) == 0
    assert path.read_text(encoding="utf-8") == page[0]


def test_pictures_at_every_severity(page):
    document, _, _ = page
    parts = re.findall(r'data-severity="(\d)"( hidden)?', document)
    assert parts.count(("2", "")) > parts.count(("4", " hidden")) > 0  # the others at one only
    assert parts.count(("4", "")) == parts.count(("2", " hidden")) == 0
    assert 'type="range"' in document


def test_what_is_left_out_of_a_very_large_page_is_said(output, page, tmp_path, monkeypatch):
    whole = explored(page[0])
    assert {view["choice"][3] for view in whole} == {"", "all", "2", "4"}
    assert not any("Left out to keep" in note for view in whole for note in view["notes"])
    monkeypatch.setattr(explorer, "MOST_CHARACTERS", 1000)
    monkeypatch.setattr(noise, "MOST_COMPARISONS", 1)
    path = tmp_path / "small.html"
    assert report([str(output), "-o", str(path)]) == 0
    document = path.read_text(encoding="utf-8")
    views = explored(document)
    assert {view["choice"][3] for view in views} == {"", "all"}
    for view in views:
        said = any(
            "Left out to keep this page small: single severities" in n for n in view["notes"]
        )
        assert said == bool(view["choice"][3]), "said where noise is shown, and nowhere else"
    assert "accuracy by kind of noise stand in the table at the top" in " ".join(document.split())
    assert "Accuracy in % by kind" in page[0] and "Accuracy in % by kind" not in document


def explored(document: str) -> list[dict]:
    """Return the views of the first screen."""
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', document)
    return json.loads(html.unescape(data))["explorer"]["views"]


def test_noisy_views_are_counted_where_every_method_has_them(output, tmp_path):
    copy = tmp_path / "output"
    shutil.copytree(output, copy)
    stored = run_folder(copy, "ANPrompt") / "robustness.json"
    content = json.loads(stored.read_text())
    for example in content["parts"]["base"]["examples"]:
        del example["views"][2:]  # the clean one and one more
    shown = len(content["parts"]["base"]["examples"])
    stored.write_text(json.dumps(content))
    path = tmp_path / "report.html"
    assert report([str(copy), "-o", str(path)]) == 0
    text = " ".join(Reader(path.read_text(encoding="utf-8")).text)
    assert f"Of the {shown} noisy views that every method was shown below, right" in text
