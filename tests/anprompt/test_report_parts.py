"""Parts of a report by themselves: charts, pictures of the test set, patterns of cells."""

import base64
import io
import itertools
import re
import shutil

import pytest
from called import report
from PIL import Image
from test_report import explored
from test_results_noise import measure
from written_runs import write_few_shot

from anprompt.results.protocol_tables import OF_AVERAGES
from anprompt.results.report import page
from anprompt.results.report.charts import Chart, to_csv, to_file, to_svg
from anprompt.results.report.pictures import TestImages
from anprompt.results.value import cell_patterns

pytestmark = pytest.mark.slow


def test_a_dollar_in_a_name_is_no_formula():
    def draw(axes, theme):
        axes.set_xlabel("cash_$_and_$")

    chart = Chart("name", "Title", "How to read it.", ("x",), [(1,)], draw)
    assert "cash_$_and_$" in to_svg(chart) and to_file(chart, "png")


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
    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    for form, start in starts.items():
        written = to_file(chart, form)
        assert written.startswith(start) and written == to_file(chart, form)
    assert b'width="237.6pt"' in to_file(chart, "svg")  # 3.3 inches: a column
    assert to_csv(chart) == "x,y\n1,3\n2,4\n"


def test_test_images_come_from_named_folders_only(tmp_path):
    root, secret = tmp_path / "data", tmp_path / "secret.png"
    (root / "set").mkdir(parents=True)
    Image.new("RGB", (300, 200), "red").save(secret)
    shutil.copy(secret, root / "set/a.png")
    (root / "set/link.png").symlink_to(secret)
    (root / "set/text.png").write_text("no picture")
    images = TestImages([root], most=1)
    for name in (
        "../secret.png",
        str(secret),
        "set/link.png",
        "set/text.png",
        "set/gone.png",
        "\0",
    ):
        assert images.uri(name) == ""
    uri = images.uri("set/a.png")
    content = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    assert Image.open(io.BytesIO(content)).size == (96, 64)
    shutil.copy(secret, root / "set/b.png")
    assert images.uri("set/b.png") == "" and images.uri("set/a.png") == uri  # the page is full


def test_patterns_stand_for_exactly_their_cells():
    keys = [f"image/{kind}/{severity}/{seed}" for kind in ("blur", "shot_noise")
            for severity in (1, 3) for seed in (("-",) if kind == "blur" else (1, 2))]  # fmt: skip
    keys += ["text/char/5/1", "text/embed/5/1", "text/embed/1/2"]
    found = []
    for pattern in cell_patterns(keys):
        group, *rest = [part.strip("{}").split(",") for part in pattern.split("/")]
        found += ["/".join(parts) for parts in itertools.product(group, *rest)]
    assert sorted(found) == sorted(keys)
    assert len(cell_patterns(keys)) < len(keys)


def test_an_average_under_noise_says_over_which_seeds_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "to_svg", lambda chart: "")
    for dataset in ("EuroSAT", "UCF101", "Food101", "DescribableTextures"):
        for seed in (1,) if dataset == "EuroSAT" else (1, 2):
            measure(write_few_shot(tmp_path, "CoOp", dataset, 4, 60, seed=seed), 40.0 + seed)
    path = tmp_path / "report.html"
    assert report([str(tmp_path), "-o", str(path)]) == 0
    views = explored(path.read_text(encoding="utf-8"))
    (view,) = [v for v in views if v["choice"][1:4] == ["accuracy", "image, all kinds", "all"]]
    assert view["notes"] == [f"{OF_AVERAGES}: CoOp: 1 (not 2)."]
