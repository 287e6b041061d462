"""Names and numbers of damaged or foreign files: shown as text, or refused in a line."""

import base64
import csv
import io
import json
import os
import re

import pytest
from called import report, table
from PIL import Image
from report_pages import Reader
from written_runs import (
    write_base_new,
    write_few_shot,
    write_log,
    write_results,
    write_source,
    write_target,
)

from anprompt.commands import pack
from anprompt.results.anomaly import find_anomaly_runs
from anprompt.results.render import escape_cell, escape_latex, escape_markdown
from anprompt.results.report.pictures import picture
from common.text import plain

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    r"\input{secret}",
    "=HYPERLINK(1)",
    "a|b`c`[d](e)",
    "\x1b[31mred\x9b",
    "50% & $x_1^2$ #{~}",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_text_in_every_format(tmp_path, capsys, name):
    for seed in (1, 2):
        write_base_new(tmp_path, "CoOp", "Shapes", 80 + seed, 40, seed=seed, dataset_title=name)
    shown = plain(name)
    outputs = {}
    for form in ("text", "markdown", "csv", "latex"):
        assert table([tmp_path, "--format", form]) == 0
        outputs[form] = capsys.readouterr().out
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", outputs[form])
    assert f"Base to new: {shown}" in outputs["text"]
    assert f"## Base to new: {escape_markdown(name)}" in outputs["markdown"]
    subjects = {record["table"] for record in csv.DictReader(io.StringIO(outputs["csv"]))}
    assert subjects == {escape_cell(name)} and not subjects & set("=+-@")
    caption = escape_latex(f"Base to new: {name}")
    assert rf"\caption{{{caption}." in outputs["latex"]
    body = "\n".join(line for line in outputs["latex"].splitlines() if not line.startswith("%"))
    assert r"\input" not in body and body.count("{") == body.count("}")
    page = tmp_path / "page.html"
    assert report([tmp_path, "-o", page]) == 0
    document = page.read_text(encoding="utf-8")
    assert "<img src=x" not in document
    assert shown in " ".join(Reader(document).text)


def test_escapes():
    assert escape_latex(r"\{}%$_#&~^") == (
        r"\textbackslash{}\{\}\%\$\_\#\&\textasciitilde{}\textasciicircum{}"
    )
    assert escape_latex("[2em] x") == "{}[2em] x" and escape_latex("*") == "{}*"
    for start in ("=", "+", "-", "@", "\t=", "\r@", " ="):
        assert escape_cell(f"{start}1").startswith("'")
    assert escape_cell("a=1") == "a=1"
    assert escape_markdown("a|b`c`<i>[x](y)") == r"a\|b\`c\`\<i\>\[x\](y)"
    assert escape_markdown("vit_b16_ep50 _x_ www.a.b http://c") == (
        r"vit_b16_ep50 \_x\_ www\.a.b http\://c"
    )
    assert plain("a\x1b[2J\u202eb\ud800\nc") == "a [2J b c"


BAD = [101, -1, 770, True, None, "83", [83], {"a": 1}, 10**400, float("nan"), float("inf")]


@pytest.mark.parametrize("value", BAD, ids=repr)
def test_an_accuracy_that_is_none_is_not_believed(tmp_path, capsys, value):
    folder = write_few_shot(tmp_path, "CoOp", "EuroSAT", 4, value)
    target = tmp_path / "page.html"
    for call in (table, report):
        assert call([tmp_path] + (["-o", target] if call is report else [])) == 2
        error = capsys.readouterr().err
        assert str(folder / "results.json") in error and "remove it" in error
        assert len(error.splitlines()) == 1 and len(error) < 600
    assert not target.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"trainer": 5}, {"trainer": None}, {"dataset": ["x"]}, {"seed": "one"}, {"seed": 1.5},
        {"shots": {}}, {"rules": []}, {"rules": {"mix": 4}}, {"rules": {"mix": {"accuracy": 770}}},
        {"per_class": {"a": -3}}, {"classnames": "ab"}, {"num_test": -1}, {"epochs": "ten"},
        {"config": []}, {"config": {"RUN": 3}}, {"config": {"RUN": {"MODEL_DIR": 3}}},
        {"macro_f1": "x"}, {"backbone": 3}, {"headline_rule": {}}, {"train_seconds": -1},
        {"versions": [1]}, {"num_trainable": 1e400},
    ],
    ids=repr,
)  # fmt: skip
def test_other_damage_is_named(tmp_path, capsys, changes):
    folder = write_few_shot(tmp_path, "CoOp", "EuroSAT", 4, 50)
    path = folder / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    for call in (table, report):
        assert call([tmp_path] + (["-o", tmp_path / "p.html"] if call is report else [])) == 2
        error = capsys.readouterr().err
        assert str(path) in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[" * 100_000, b"\xff\xfe\x00", b'{"finished": true}', b"null", b"\x00" * 9,
     b'{"finished": true, "accuracy": ' + b"9" * 5000 + b"}"],
    ids=range(8),
)  # fmt: skip
def test_damaged_files_end_in_one_line(tmp_path, capsys, content):
    folder = write_few_shot(tmp_path, "CoOp", "EuroSAT", 4, 50)
    (folder / "results.json").write_bytes(content)
    assert table([tmp_path]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path) in error and len(error.splitlines()) == 1


def test_a_byte_order_mark_does_no_harm(tmp_path, capsys):
    path = write_few_shot(tmp_path, "CoOp", "EuroSAT", 4, 50.25) / "results.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert table([tmp_path]) == 0 and "50.25" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new"),
    [("SEED: 1", "SEED: one"), ("NAME: EuroSAT", "NAME: [1, 2]"), ("NUM_SHOTS: 16", "NUM_SHOTS: x"),
     ("accuracy: 90.0%", "accuracy: 1e999%"), ("accuracy: 90.0%", "accuracy: 770%")],
)  # fmt: skip
def test_damaged_logs_are_named(tmp_path, capsys, old, new):
    log = write_log(tmp_path / "CoOp/c/seed1", "CoOp", "EuroSAT", 90.0, "base") / "log.txt"
    log.write_text(log.read_text().replace(old, new))
    assert table([tmp_path]) == 2
    error = capsys.readouterr().err
    assert str(log) in error and len(error.splitlines()) == 1


def test_a_folder_called_as_a_log_is_none(tmp_path, capsys):
    write_few_shot(tmp_path, "CoOp", "EuroSAT", 4, 50)
    (tmp_path / "log.txt").mkdir()
    os.mkfifo(tmp_path / "log.txt-fifo")
    assert table([tmp_path]) == 0 and "50.00" in capsys.readouterr().out


# What the command writes -------------------------------------------------------------------------


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path, capsys, monkeypatch):
    write_few_shot(tmp_path / "runs", "CoOp", "EuroSAT", 4, 50)
    target = tmp_path / "table.md"
    target.write_text("before")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert table([tmp_path / "runs", "-o", target]) == 2
    error = capsys.readouterr().err
    assert "No space left" in error and len(error.splitlines()) == 1
    assert target.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "table.md"]
    assert table([tmp_path / "runs", "-o", target]) == 0 and "50.00" in target.read_text()


@pytest.mark.parametrize("names", ["coop,ZSCLIP", "CoOp zeroshotclip", "COOP,ZeroshotCLIP"])
def test_methods_go_by_script_or_trainer_in_any_case(tmp_path, capsys, names):
    for trainer in ("CoOp", "MaPLe", "ZeroshotCLIP"):
        write_few_shot(tmp_path, trainer, "EuroSAT", 4, 50)
    assert table([tmp_path, "--methods", names]) == 0
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "50.00" in line]
    assert shown == ["CoOp", "ZeroshotCLIP"]
    assert table([tmp_path, "--methods", "coopp"]) == 2
    assert "no finished run of 'coopp'; did you mean CoOp?" in capsys.readouterr().err


def test_macro_f1_and_sources(tmp_path, capsys):
    for seed, f1 in ((1, 40.0), (2, 44.0)):
        write_few_shot(tmp_path, "CoOp", "EuroSAT", 4, 50, seed=seed, macro_f1=f1)
    assert table([tmp_path, "--metric", "macro_f1"]) == 0
    printed = capsys.readouterr().out
    assert "42.00 +- 2.00" in printed and "macro F1 in %" in printed
    assert table([tmp_path, "--format", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["tables"]
    (value,) = found["rows"][0]["values"]
    assert (value["value"], value["std"], value["n"]) == (50, 0, 2)
    assert value["source"][0] == "mean" and value["source"][1].endswith(
        "seed1/results.json#accuracy"
    )


def test_shortages_are_said(tmp_path, capsys):
    write_few_shot(tmp_path, "CoOp", "EuroSAT", 16, 50, fewest_shots=15)
    assert table([tmp_path]) == 0
    assert "EuroSAT: the smallest class was trained with 15 of the 16 images asked for." in (
        capsys.readouterr().out
    )


def test_trainings_that_went_on_from_others_are_said(tmp_path, capsys):
    resumed = {"identity": {"resumed": ["DATASET.NUM_SHOTS was 1, is 16 from here on"]}}
    trained = write_source(tmp_path, "CoOp", "ImageNet", 50, seed=2, **resumed)
    write_target(tmp_path, "CoOp", "ImageNet", "EuroSAT", 40, seed=2)
    note = (
        "CoOp trained on ImageNet, seed 2: its training went on from another run's; "
        "DATASET.NUM_SHOTS was 1, is 16 from here on."
    )
    assert table([tmp_path]) == 0
    assert capsys.readouterr().out.count(note) == 1
    assert table([tmp_path / "crossdata/test"]) == 0
    assert capsys.readouterr().out.count(note) == 1
    shared = pack.shared(json.loads((trained / "results.json").read_text()))
    assert shared["identity"] == resumed["identity"]


def test_seeds_that_draw_nothing_are_said(tmp_path, capsys):
    for seed in (1, 2):
        write_few_shot(tmp_path, "CoOp", "pets", 4, 50 + seed, seed=seed, takes_all=True)
        write_few_shot(tmp_path, "CoOp", "EuroSAT", 4, 50, seed=seed, takes_all=False)
    assert table([tmp_path]) == 0
    printed = capsys.readouterr().out
    assert "pets: all seeds train on the same images" in printed
    assert "EuroSAT: all seeds" not in printed


def test_images_of_ones_own_have_a_title(tmp_path, capsys):
    for title in ("birds", "leaves"):
        write_base_new(tmp_path / title, "CoOp", "ImageFolder", 80, 40, dataset_title=title)
    assert table([tmp_path]) == 0
    printed = capsys.readouterr().out
    assert "Base to new: birds" in printed and "Base to new: leaves" in printed
    assert "average of 2 data sets" in printed


def test_own_images_for_anomalies_are_no_known_data_set_either(tmp_path):
    found = {
        "task": "anomaly",
        "category": "",
        "dataset_title": "MVTecAD",
        "image_auroc": 90.0,
        "image_ap": 90.0,
    }
    for dataset in ("AnomalyFolder", "MVTecAD"):
        write_results(tmp_path / dataset, "AnomalyMemory", dataset, 0, **found)
    runs, _ = find_anomaly_runs([tmp_path])
    assert [run.dataset for run in runs] == ["MVTecAD (own images)", "MVTecAD"]


# The page ----------------------------------------------------------------------------------------


def test_only_pictures_of_the_run_itself_are_embedded(tmp_path):
    run, secret = tmp_path / "run", tmp_path / "secret.jpg"
    (run / "examples").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(run / "examples/a.jpg")
    Image.new("RGB", (8, 8)).save(secret)
    (run / "examples/text.jpg").write_text("root:x:0:0")
    (run / "examples/link.jpg").symlink_to(secret)
    (run / "examples/cut.jpg").write_bytes((run / "examples/a.jpg").read_bytes()[:200])
    (run / "examples/large.png").write_bytes(b"\x89PNG" + b"\0" * (2 << 20))
    good = picture(run, "examples/a.jpg")
    kind, _, content = good.partition(",")
    assert kind == "data:image/jpeg;base64"
    assert base64.b64decode(content) == (run / "examples/a.jpg").read_bytes()
    names = [f"examples/{name}" for name in ("text.jpg", "link.jpg", "cut.jpg", "large.png", "no")]
    for name in (*names, "../secret.jpg", str(secret), "/etc/passwd", "", ".", "a\0b", "x" * 999):
        assert picture(run, name) == "", name


def test_page_names_code_machines_and_dates(tmp_path):
    code = {"version": "0.2.0", "commit": "abcdef0123456789", "dirty": True}
    for day, seed in ((1, 1), (3, 2)):
        write_results(
            tmp_path / f"CoOp/c/seed{seed}", "CoOp", "EuroSAT", 50, seed=seed, code=code,
            host="node7", date=f"2026-01-0{day}T10:00:00+00:00", command="python train.py",
        )  # fmt: skip
    page = tmp_path / "page.html"
    assert report([tmp_path, "-o", page]) == 0
    text = " ".join(Reader(page.read_text(encoding="utf-8")).text)
    assert "Run 2026-01-01 to 2026-01-03" in text and "Machines: node7" in text
    assert "Code: 0.2.0 abcdef012345 with changes" in text
    assert f"python -m anprompt report {tmp_path}" in text


def test_page_bolds_by_one_rule_and_shares_places(old_tree, monkeypatch, tmp_path):
    monkeypatch.chdir(old_tree)
    page = tmp_path / "page.html"
    assert report(["output_old", "-o", page]) == 0
    document = page.read_text(encoding="utf-8")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", document))
    # Ties share their place.
    assert "CoOp and ZeroshotCLIP, 79.2% each" in text
    assert "0.0 points ahead" not in text
    # One table of cost for each protocol, headed with it.
    captions = re.findall(r'class="caption">([^<]*)<', document)
    costs = [caption for caption in captions if "shot" in caption or caption.endswith("Shapes")]
    assert {"Base to new, Shapes", "Few-shot, Shapes, 1 shot", "Few-shot, Shapes, 2 shots"} <= set(
        costs
    )
    # Drop and calibration have their best in bold, as accuracy has.
    drops = document.split("Drop in points; same answers and ECE in %")[2].split("</table>")[0]
    assert "<strong>" in drops
    assert "darker" not in text and "stronger the shade" in text
    marked = [part for part in text.split("Left out of the means")[1:] if "Marked †" in part[:200]]
    assert len(marked) == text.count("Left out of the means") and "char†" in text
    # Numbers are reached by the keyboard, and boxes that scroll too.
    assert document.count('role="button"') > 300
    assert 'class="scroll" tabindex="0"' in document
