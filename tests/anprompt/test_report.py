"""python -m anprompt report: its numbers are those of the files, and the page stands alone."""

import base64
import csv
import html
import io
import itertools
import json
import os
import re
import shutil
import statistics
from html.parser import HTMLParser
from pathlib import Path

import pytest
from called import report, robustness
from PIL import Image
from runs_of_tests import run_folder

from anprompt.results.report import explorer, noise
from anprompt.results.report.charts import Chart, to_csv, to_file, to_svg
from anprompt.results.report.pictures import TestImages
from anprompt.results.value import cell_patterns

pytestmark = pytest.mark.slow


class Reader(HTMLParser):
    """Table cells, traced numbers, ids, links and loaded resources of a page."""

    def __init__(self, document: str):
        super().__init__()
        self.ids, self.links, self.loaded = [], [], []
        self.text: list[str] = []
        self.open: list[tuple[str, dict]] = []
        self.numbers: list[dict] = []  # attributes, with what is shown as "shown"
        self.cells: list[tuple[str, bool]] = []  # text and whether it is traced
        self.feed(document)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if "data-source" in values:
            self.numbers.append({**values, "shown": ""})
        if tag == "td":
            self.cells.append(("", False))
        if tag not in ("meta", "img", "link", "br"):
            self.open.append((tag, values))
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a":
            self.links.append(values["href"])
        self.loaded += [values[key] for key in ("src", "data", "srcset") if values.get(key)]
        if tag == "link":
            self.loaded.append(values.get("href", ""))

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        tags = [tag for tag, _ in self.open]
        traced = any("data-source" in values for _, values in self.open)
        if traced:
            self.numbers[-1]["shown"] += data
        if "td" in tags and not {"a", "code"} & set(tags):
            text, was = self.cells[-1]
            self.cells[-1] = (text + data, was or traced)
        if not {"style", "script"} & set(tags[-1:]):
            self.text.append(data)


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


READ: dict[str, dict] = {}


def leaf(source: str) -> float:
    """What stands in a file: in results.json and robustness.json by key, in log.txt by epoch."""
    path, _, key = source.partition("#")
    if path.endswith("curve.csv"):
        epoch, column = re.fullmatch(r"epoch (\d+)/(\w+)", key).groups()
        with open(path) as file:
            rows = [row for row in csv.DictReader(file) if row["epoch"] == epoch]
        return float(rows[0][column])
    if path.endswith("log.txt"):
        epoch, meter = re.fullmatch(r"epoch (\d+)/(\w+)", key).groups()
        lines = [line for line in Path(path).read_text().splitlines()
                 if line.startswith(f"epoch [{epoch}/")]  # fmt: skip
        return float(re.search(rf"\b{meter} [\d.]+ \(([\d.]+)\)", lines[-1])[1])
    if path not in READ:
        READ[path] = json.loads(Path(path).read_text())
    value = READ[path]
    if "/cells/" in key:  # "group/kind/severity/seed" is one name there
        before, _, rest = key.partition("/cells/")
        *cell, rule, measure = rest.split("/")
        return READ[path]["parts"][before.split("/")[1]]["cells"]["/".join(cell)][rule][measure]
    for name in key.split("/"):
        value = value[int(name)] if isinstance(value, list) else value[name]
    return value


def noisy(patterns: list[str]) -> float:
    """Mean over kinds of means over severities of means over seeds."""
    kinds: dict[str, dict[str, list[float]]] = {}
    for pattern in patterns:
        before, _, rest = pattern.partition("/cells/")
        group, names, severities, seeds, rule, measure = rest.split("/")
        for name in names.strip("{}").split(","):
            for severity in severities.strip("{}").split(","):
                for seed in seeds.strip("{}").split(","):
                    key = f"{before}/cells/{group}/{name}/{severity}/{seed}/{rule}/{measure}"
                    kinds.setdefault(name, {}).setdefault(severity, []).append(leaf(key))
    return statistics.fmean(
        statistics.fmean(statistics.fmean(values) for values in by_severity.values())
        for by_severity in kinds.values()
    )


def computed(source) -> float:
    """A number anew, from the files that its source names."""
    if isinstance(source, str):
        return leaf(source)
    operation, *parts = source
    if operation == "noisy":
        return noisy(parts)
    if operation == "count":
        assert all(leaf(part) is not None for part in parts)
        return len(parts)
    values = [computed(part) for part in parts]
    return {
        "mean": lambda: statistics.fmean(values),
        "hm": lambda: 2 / (1 / values[0] + 1 / values[1]) if all(values) else 0.0,
        "minus": lambda: values[0] - values[1],
        "over": lambda: values[0] / values[1],
        "percent": lambda: 100 * values[0],
    }[operation]()


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


def test_missing_and_unfinished_runs_are_shown_as_such(trained_output, tmp_path, capsys):
    output = tmp_path / "output"
    shutil.copytree(trained_output, output)
    shutil.rmtree(run_folder(output, "MaPLe", "test_new"))
    (run_folder(output, "CoOp", "test_new") / "results.json").unlink()
    path = tmp_path / "report.html"
    assert report([str(output), "-o", str(path)]) == 0
    document = path.read_text(encoding="utf-8")
    assert document.count('class="missing"') >= 4  # new and HM of both
    assert "Not finished, left out" in document
    assert "Under noise" not in document, "no evaluation, no section"


def rewritten(source: Path, target: Path, model_dir: str = "", **changes) -> Path:
    """A copy of a run's results that says something else."""
    content = json.loads((source / "results.json").read_text()) | changes
    content["dataset_title"] = content["dataset"]
    content["config"]["RUN"]["MODEL_DIR"] = model_dir
    target.mkdir(parents=True)
    (target / "results.json").write_text(json.dumps(content))
    if (source / "log.txt").is_file():
        shutil.copy(source / "log.txt", target)
    return target


def test_few_shots_and_transfer_have_tables(trained_output, tmp_path):
    output = tmp_path / "output"
    for trainer, accuracies in (("CoOp", {1: 40.0, 4: 50.5}), ("ZeroshotCLIP", {1: 30.25})):
        source = run_folder(trained_output, trainer)
        for shots, accuracy in accuracies.items():
            run = f"shots_{shots}/{trainer}/config/seed1"
            rewritten(source, output / "fewshot/eurosat" / run, subsample_classes="all",
                      shots=shots, accuracy=accuracy)  # fmt: skip
        run = f"shots_1/{trainer}/config/seed1"
        rewritten(source, output / "crossdata/train/eurosat" / run, subsample_classes="all",
                  accuracy=60.0)  # fmt: skip
        for name, dataset, accuracy in (("dtd", "DescribableTextures", 20.0),
                                        ("food101", "Food101", 31.0)):  # fmt: skip
            target = output / "crossdata/test/eurosat" / name / run
            training = f"../../../../../../../train/eurosat/{run}" if trainer == "CoOp" else ""
            rewritten(source, target, training, subsample_classes="all", dataset=dataset,
                      accuracy=accuracy)  # fmt: skip
    path, figures = tmp_path / "report.html", tmp_path / "figures"
    assert report([str(output), "-o", str(path), "--figures", str(figures)]) == 0
    document = path.read_text(encoding="utf-8")
    reader = Reader(document)
    for number in reader.numbers:
        source = json.loads(number["data-source"])
        assert float(number["data-value"]) == pytest.approx(computed(source)), number
    text = " ".join(reader.text)
    for words in ("1 shot", "4 shots", "EuroSAT (source)", "average of 2",
                  "Transfer to other data sets", "Macro F1"):  # fmt: skip
        assert words in text
    shown = {number["shown"] for number in reader.numbers}
    assert {"40.00", "50.50", "25.50"} <= shown  # 25.5: the average of the targets
    with open(figures / "shots-eurosat.csv") as file:
        rows = [(row["method"], row["shots"], float(row["accuracy_mean"]))
                for row in csv.DictReader(file)]  # fmt: skip
    assert ("CoOp", "1", 40.0) in rows and ("CoOp", "4", 50.5) in rows
    # what learns nothing is the same for any number of images
    assert ("ZeroshotCLIP", "1", 30.25) in rows and ("ZeroshotCLIP", "4", 30.25) in rows
    assert "Base to new" not in text


def test_ablations_stand_apart(trained_output, tmp_path):
    output = tmp_path / "output"
    for part in ("train_base", "test_new"):
        source = run_folder(trained_output, "ANPrompt", part)
        shutil.copytree(source, output / source.relative_to(trained_output))
        whole = json.loads((source / "results.json").read_text())["accuracy"]
        target = Path(str(source).replace("vit_b16", "no_nrvpp")).relative_to(trained_output)
        model_dir = str(target).replace("test_new", "train_base") if part == "test_new" else ""
        if model_dir:
            model_dir = os.path.relpath(model_dir, target)
        rewritten(source, output / target, model_dir, accuracy=whole - 5)
    path, figures = tmp_path / "report.html", tmp_path / "figures"
    assert report([str(output), "-o", str(path), "--figures", str(figures)]) == 0
    reader = Reader(path.read_text(encoding="utf-8"))
    assert {"−5.00", "−5.0"} <= {number["shown"] for number in reader.numbers}
    for number in reader.numbers:
        source = json.loads(number["data-source"])
        assert float(number["data-value"]) == pytest.approx(computed(source)), number
    assert "1 of 1 changes lower the harmonic mean" in " ".join(reader.text)
    with open(figures / "ablations-anprompt-on-eurosat.csv") as file:
        (row,) = csv.DictReader(file)
    assert row["ablation"] == "no_nrvpp" and float(row["base_change"]) == pytest.approx(-5)
    with open(figures / "base-new-eurosat.csv") as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["ANPrompt"]


def test_names_are_text_not_markup(trained_output, tmp_path):
    output = tmp_path / "output"
    shutil.copytree(trained_output, output)
    for path in output.rglob("results.json"):
        content = path.read_text().replace("Forest", "<script>alert(1)</script>&")
        path.write_text(content)
    path = tmp_path / "report.html"
    assert report([str(output), "-o", str(path), "--title", "<b>&"]) == 0
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
    unlike = tmp_path / "unlike"
    shutil.copytree(run_folder(trained_output, "CoOp"), unlike / "CoOp/config/seed1")
    rewritten(run_folder(trained_output, "MaPLe"), unlike / "MaPLe/config/seed1",
              classnames=["Forest", "Moor"])  # fmt: skip
    halves = tmp_path / "halves"
    shutil.copytree(trained_output, halves)
    results = run_folder(halves, "CoOp", "test_new") / "results.json"
    results.write_text(json.dumps(json.loads(results.read_text()) | {"epochs": 77}))
    validation = tmp_path / "validation"
    rewritten(run_folder(trained_output, "CoOp"), validation / "CoOp/config/seed1", split="val")
    path = tmp_path / "report.html"
    path.write_text("before")
    for folder, message in [
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path / "empty", "no finished run"),
        (twice, "same method"),
        (halves, "the number of epochs is"),
        (validation, "tested on val images"),
        (unlike, "different class sets"),
        (broken, "not valid JSON"),
    ]:
        capsys.readouterr()
        assert report([str(folder), "-o", str(path)]) == 2
        err = capsys.readouterr().err
        assert message in err and len(err.strip().splitlines()) == 1
    for flags, message in [
        (["--baseline", "Zero"], "--baseline Zero: no run of it; there are: ANPrompt, CoOp"),
        (["--highlight", "coop"], "--highlight coop: no run of it"),
        (["--root", str(tmp_path / "nowhere")], "nowhere: no such folder"),
    ]:
        capsys.readouterr()
        assert report([str(trained_output), "-o", str(path), *flags]) == 2
        assert message in capsys.readouterr().err
    assert report([str(trained_output), "-o", str(tmp_path / "report.txt")]) == 2
    assert path.read_text() == "before"


def test_runs_of_no_table_are_named_and_left_out(trained_output, tmp_path):
    output = tmp_path / "output"
    shutil.copytree(trained_output, output)
    results = run_folder(output, "CoOp", "test_new") / "results.json"
    content = json.loads(results.read_text()) | {"split": "val", "accuracy": 99.9}
    results.write_text(json.dumps(content))
    path = tmp_path / "report.html"
    assert report([str(output), "-o", str(path)]) == 0
    text = " ".join(Reader(path.read_text(encoding="utf-8")).text)
    assert "tested on val images" in text and "99.9" not in text


def test_few_seeds_are_said_for_each_method(trained_output, tmp_path):
    """Three seeds among three methods are not three of any."""
    output = tmp_path / "output"
    for seed, trainer in enumerate(("CoOp", "MaPLe", "ANPrompt"), start=1):
        rewritten(
            run_folder(trained_output, trainer), output / f"{trainer}/c/seed{seed}", seed=seed
        )
    path = tmp_path / "report.html"
    assert report([str(output), "-o", str(path)]) == 0
    assert "One seed: methods a few points apart" in path.read_text(encoding="utf-8")
    for seed in (2, 3):
        rewritten(run_folder(trained_output, "CoOp"), output / f"CoOp/c/seed{seed}", seed=seed)
    assert report([str(output), "-o", str(path)]) == 0
    assert "One seed of ANPrompt and MaPLe: methods" in path.read_text(encoding="utf-8")


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
