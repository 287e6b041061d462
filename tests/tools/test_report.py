"""tools/report.py: its numbers are those of the files, and the page stands alone."""

import csv
import json
import re
import shutil
import statistics
from html.parser import HTMLParser
from pathlib import Path

import pytest
from runs_of_tests import run_folder

from tools import report, robustness
from tools.collect import harmonic_mean
from tools.reporting.charts import Chart, dodged, to_csv, to_png, to_svg
from tools.reporting.data import value_at
from tools.robust.summary import measured


class Reader(HTMLParser):
    """Cells with sources, ids, links and loaded resources of a page."""

    def __init__(self, document: str):
        super().__init__()
        self.cells, self.ids, self.links, self.loaded = [], [], [], []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(document)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.open.append(tag)
        if "data-sources" in values:
            self.cells.append(values)
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a":
            self.links.append(values["href"])
        self.loaded += [values[key] for key in ("src", "data", "srcset") if values.get(key)]
        if tag == "link":
            self.loaded.append(values.get("href", ""))

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open[-1:]):
            self.text.append(data)


@pytest.fixture(scope="module")
def output(trained_output, tmp_path_factory) -> Path:
    """Trained runs, evaluated under a little noise."""
    folder = tmp_path_factory.mktemp("reported") / "output"
    shutil.copytree(trained_output, folder)
    small = ["--noise", "char,embed,blur,occlusion,both,learned", "--severities", "2,4"]
    arguments = ["--model-dir", str(folder), *small, "--seeds", "1", "--images", "10"]
    assert robustness.main(arguments) == 0
    return folder


@pytest.fixture(scope="module")
def page(output, tmp_path_factory) -> tuple[str, Reader, Path]:
    folder = tmp_path_factory.mktemp("page")
    path, figures = folder / "report.html", folder / "figures"
    assert report.main([str(output), "-o", str(path), "--figures", str(figures)]) == 0
    document = path.read_text(encoding="utf-8")
    return document, Reader(document), figures


def source_value(source: str) -> float:
    path, _, key = source.partition("#")
    value = value_at(json.loads(Path(path).read_text()), key)
    assert isinstance(value, int | float), source
    return value


def test_every_mean_is_that_of_its_files(page):
    checked = 0
    for cell in page[1].cells:
        if cell["data-how"] == "mean":
            values = [source_value(source) for source in cell["data-sources"].split("|")]
            assert float(cell["data-value"]) == pytest.approx(statistics.fmean(values)), cell
            checked += 1
    assert checked > 40


def test_every_harmonic_mean_is_that_of_its_files(page):
    checked = 0
    for cell in page[1].cells:
        if cell["data-how"].startswith("harmonic mean"):
            base, new = ([], [])
            for source in cell["data-sources"].split("|"):
                (new if "/test_new/" in source else base).append(source_value(source))
            expected = harmonic_mean(statistics.fmean(base), statistics.fmean(new))
            assert float(cell["data-value"]) == pytest.approx(expected)
            checked += 1
    assert checked >= 4


def test_every_mean_under_noise_is_that_of_its_cells(page):
    checked = 0
    for cell in page[1].cells:
        found = re.fullmatch(r"mean over the cells of (\w+)(?:/(\w+))?: (\w+)", cell["data-how"])
        if not found or found[1] == "learned":
            continue
        group, kind, measure = found.groups()
        (source,) = cell["data-sources"].split("|")
        path, _, key = source.partition("#")
        part = json.loads(Path(path).read_text())["parts"][key.split("/")[1]]
        own = [c for c in measured(part, part["headline_rule"]) if c.group == group]
        if kind:
            own = [c for c in own if c.kind == kind]
        else:  # ANPrompt trained with char
            own = [c for c in own if "char" not in c.kind.split("+")]
        if measure == "drop":
            clean = part["clean"][part["headline_rule"]]["accuracy"]
            expected = clean - statistics.fmean(c.accuracy for c in own)
        else:
            expected = statistics.fmean(getattr(c, measure) for c in own)
        assert float(cell["data-value"]) == pytest.approx(expected), cell
        checked += 1
    assert checked > 60


def test_the_page_stands_alone(page):
    document, reader, _ = page
    assert all(loaded.startswith("data:") for loaded in reader.loaded)
    assert reader.loaded, "example pictures are embedded"
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


def test_figures_as_png_and_csv(page):
    document, reader, figures = page
    names = {path.stem for path in figures.glob("*.png")}
    assert names == {path.stem for path in figures.glob("*.csv")}
    assert names <= set(reader.ids)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures.glob("*.png"))
    with open(figures / "base-new-eurosat.csv") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert len(rows) == 4
    value = float(rows["CoOp"]["base_mean"])
    means = [float(c["data-value"]) for c in reader.cells if "/CoOp/" in c["data-sources"]]
    assert any(value == pytest.approx(mean) for mean in means)
    assert any(name.startswith("severity-eurosat") for name in names)
    assert "training-eurosat-loss" in names


def test_same_runs_same_page(output, page, tmp_path):
    path = tmp_path / "again.html"
    assert report.main([str(output), "-o", str(path)]) == 0
    assert path.read_text(encoding="utf-8") == page[0]


def test_missing_and_unfinished_runs_are_shown_as_such(trained_output, tmp_path, capsys):
    output = tmp_path / "output"
    shutil.copytree(trained_output, output)
    shutil.rmtree(run_folder(output, "MaPLe", "test_new"))
    (run_folder(output, "CoOp", "test_new") / "results.json").unlink()
    path = tmp_path / "report.html"
    assert report.main([str(output), "-o", str(path)]) == 0
    document = path.read_text(encoding="utf-8")
    assert document.count('class="missing"') >= 4  # new and HM of both
    assert "Not finished, left out" in document
    assert "Under noise" not in document, "no evaluation, no section"


def test_names_are_text_not_markup(trained_output, tmp_path):
    output = tmp_path / "output"
    shutil.copytree(trained_output, output)
    for path in output.rglob("results.json"):
        content = path.read_text().replace("Forest", "<script>alert(1)</script>&")
        path.write_text(content)
    path = tmp_path / "report.html"
    assert report.main([str(output), "-o", str(path), "--title", "<b>&"]) == 0
    document = path.read_text(encoding="utf-8")
    assert "<script>alert" not in document and "<title>&lt;b&gt;&amp;</title>" in document


def test_bad_input_is_one_line(trained_output, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    twice = tmp_path / "twice"
    for name in ("a", "b"):
        shutil.copytree(run_folder(trained_output, "CoOp"), twice / name / "CoOp/config/seed1")
    broken = tmp_path / "broken"
    shutil.copytree(run_folder(trained_output, "CoOp"), broken / "seed1")
    (broken / "seed1/results.json").write_text("{")
    path = tmp_path / "report.html"
    path.write_text("before")
    for folder, message in [
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path / "empty", "no finished run"),
        (twice, "same method"),
        (broken, "not valid JSON"),
    ]:
        capsys.readouterr()
        assert report.main([str(folder), "-o", str(path)]) == 2
        err = capsys.readouterr().err
        assert message in err and len(err.strip().splitlines()) == 1
    assert report.main([str(trained_output), "-o", str(tmp_path / "report.txt")]) == 2
    assert path.read_text() == "before"


def test_drawing_is_the_same_in_every_form():
    def draw(axes, theme):
        axes.plot([1, 2], [3, 4], color=theme.series(3), marker="o")
        axes.set_xlabel("severity < 5 & more")

    chart = Chart(
        "a-chart", 'A "chart" & more', "How to read it.", ("x", "y"), [(1, 3), (2, 4)], draw
    )
    svg = to_svg(chart)
    assert svg.startswith("<svg") and "var(--s3)" in svg and "var(--muted)" in svg
    assert "#0102" not in svg and "#0a0b" not in svg
    assert not re.search(r"<svg[^>]* width=", svg), "scales with its box"
    assert svg == to_svg(chart)
    assert to_png(chart).startswith(b"\x89PNG")
    assert to_csv(chart) == "x,y\n1,3\n2,4\n"


def test_labels_move_apart_in_order():
    moved = dodged([1.0, 1.1, 5.0, 1.05], 0.5)
    order = sorted(range(4), key=lambda i: moved[i])
    assert order == [0, 3, 1, 2]
    gaps = [moved[b] - moved[a] for a, b in zip(order, order[1:], strict=False)]
    assert min(gaps) >= 0.5 - 1e-6
    assert moved[2] == 5.0
