"""Runs in one small file: the same tables, nothing of the machine."""

import io
import json
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml
from called import table
from runs_of_tests import ROOT
from test_results_noise import measure
from written_runs import write_base_new, write_results, write_source, write_target

from anprompt.commands import pack
from anprompt.results.noise.files import read_below
from anprompt.results.run import read_training
from common.errors import UsageError

RUNS = ROOT / "docs/runs.tar.xz"
ATTACKS = ROOT / "docs/attacks.tar.xz"


def unpacked(archive: Path, folder: Path) -> Path:
    folder.mkdir()
    subprocess.run(["tar", "xf", str(archive), "-C", str(folder)], check=True)
    return folder


def printed(capsys, folder: Path, *arguments: str) -> str:
    capsys.readouterr()
    assert table([str(folder), "--no-published", "--format", "markdown", *arguments]) == 0
    return capsys.readouterr().out


def test_tables_are_the_same(tmp_path, capsys):
    options = {
        "DATASET": {"ROOT": "/home/me/data", "NAME": "EuroSAT", "IMAGE_DIR": "/home/me/pets"}
    }
    more = {"host": "mine", "command": "python train.py --root /home/me/data", "options": options}
    more["predictions"] = {"file": "predictions.npz", "bytes": 1, "sha256": "0"}
    for seed in (1, 2):
        write_base_new(tmp_path / "runs", "CoOp", "EuroSAT", 80 + seed, 70, seed=seed, **more)
    write_base_new(tmp_path / "runs", "ZeroshotCLIP", "EuroSAT", 60, 61, **more)
    assert pack.main([str(tmp_path / "runs"), str(tmp_path / "runs.tar.xz")]) == 0
    assert re.search(r"runs.tar.xz: 6 runs, [\d,]+ bytes", capsys.readouterr().out)
    theirs = unpacked(tmp_path / "runs.tar.xz", tmp_path / "theirs")
    assert printed(capsys, theirs) == printed(capsys, tmp_path / "runs")
    for path in theirs.rglob("*"):
        assert path.is_dir() or path.name == "results.json"
        assert path.is_dir() or not re.search(r"/home|mine|predictions", path.read_text())
    first = (tmp_path / "runs.tar.xz").read_bytes()
    assert pack.main([str(tmp_path / "runs"), str(tmp_path / "runs.tar.xz")]) == 0
    assert (tmp_path / "runs.tar.xz").read_bytes() == first


@pytest.mark.parametrize(
    "part", ["", "crossdata", "crossdata/test", "crossdata/train/imagenet/shots_16/CoOp"]
)
def test_tables_of_a_part_are_the_same(tmp_path, capsys, part):
    write_source(tmp_path / "runs", "CoOp", "ImageNet", 70)
    for target in ("EuroSAT", "DescribableTextures"):
        write_target(tmp_path / "runs", "CoOp", "ImageNet", target, 40)
    packed = tmp_path / "runs" / part
    assert pack.main([str(packed), str(tmp_path / "runs.tar.xz")]) == 0
    theirs = unpacked(tmp_path / "runs.tar.xz", tmp_path / "theirs")
    assert [path.name for path in theirs.iterdir()] == ["crossdata"]
    expected = printed(capsys, packed)
    assert "trained on ImageNet" in expected and "Few-shot" not in expected
    assert printed(capsys, theirs) == expected


def test_of_trainings_without_a_test_settings_go_along(tmp_path, capsys):
    """As with TEST.NO_TEST: tests in folders of any name know what was trained there."""
    data = {"NAME": "ImageFolder", "IMAGE_DIR": "/home/me/pets", "TITLE": "mine", "NUM_SHOTS": 4}
    data |= {"ROOT": "/home/me/data", "SUBSAMPLE_CLASSES": "all"}
    config = {"TRAINER": {"NAME": "CoOp"}, "DATASET": data, "OPTIM": {"LR": 1e-05}}
    trained = tmp_path / "runs/trained"
    trained.mkdir(parents=True)
    (trained / "config.yaml").write_text(yaml.safe_dump(config))
    (trained / "log.txt").write_text("")
    write_results(tmp_path / "runs/tested", "CoOp", "EuroSAT", 50, training=trained)
    assert pack.main([str(tmp_path / "runs"), str(tmp_path / "runs.tar.xz")]) == 0
    theirs = unpacked(tmp_path / "runs.tar.xz", tmp_path / "theirs")
    expected = printed(capsys, tmp_path / "runs").replace(str(tmp_path / "runs"), "FOLDER")
    assert "trained on mine" in expected
    assert printed(capsys, theirs).replace(str(theirs), "FOLDER") == expected
    assert "/home" not in (theirs / "trained/config.yaml").read_text()
    settings = read_training(theirs / "trained", 0).settings
    assert settings["OPTIM.LR"] == 1e-05

    assert pack.main([str(tmp_path / "runs/tested"), str(tmp_path / "part.tar.xz")]) == 0
    assert "not packed: 1 trainings that tests name" in capsys.readouterr().out


def test_noise_of_a_training_without_a_test_goes_along(tmp_path, capsys):
    write_results(tmp_path / "runs/other", "CoOp", "UCF101", 50)
    run = write_results(tmp_path / "runs/mine", "CoOp", "EuroSAT", 50)
    measure(run, 40.0, config="mine")
    config = json.loads((run / "results.json").read_text())["config"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "results.json").unlink()
    assert pack.main([str(tmp_path / "runs"), str(tmp_path / "runs.tar.xz")]) == 0
    theirs = unpacked(tmp_path / "runs.tar.xz", tmp_path / "theirs")
    noise = ("--protocol", "noise")
    assert printed(capsys, theirs, *noise) == printed(capsys, tmp_path / "runs", *noise)
    assert (theirs / "mine/config.yaml").is_file()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"trainer": None}, "trainer"),
        ({"seed": True}, "seed"),
        ({"date": 5}, "date"),
        ({"task": "anomaly", "image_auroc": 50, "image_ap": 50}, "category"),
    ],
)
def test_what_tables_refuse_is_not_packed(tmp_path, changes, named):
    path = write_results(tmp_path / "run", "CoOp", "EuroSAT", 80) / "results.json"
    content = json.loads(path.read_text()) | changes
    for name in [name for name, value in changes.items() if value is None]:
        del content[name]
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=f"not the results of a run .*{named}"):
        pack.main([str(tmp_path), str(tmp_path / "runs.tar.xz")])
    assert not (tmp_path / "runs.tar.xz").exists()


def test_figures_of_noise_go_along(evaluated_output, tmp_path, capsys):
    assert pack.main([str(evaluated_output), str(tmp_path / "runs.tar.xz")]) == 0
    theirs = unpacked(tmp_path / "runs.tar.xz", tmp_path / "theirs")
    noise = ("--protocol", "noise")
    assert printed(capsys, theirs, *noise) == printed(capsys, evaluated_output, *noise)
    found = list(theirs.rglob("robustness.json"))
    assert found and not any('"picture"' in path.read_text() for path in found)


def test_bad_input_leaves_the_file_that_is_there(tmp_path):
    archive = tmp_path / "runs.tar.xz"
    archive.write_text("mine")
    with pytest.raises(UsageError, match="no finished run"):
        pack.main([str(tmp_path), str(archive)])
    folder = write_results(tmp_path / "run", "CoOp", "EuroSAT", 80)
    (folder / "results.json").write_text('{"finished": true, "accuracy": 800}')
    with pytest.raises(UsageError, match="not the results of a run"):
        pack.main([str(tmp_path), str(archive)])
    assert archive.read_text() == "mine"


def test_the_runs_that_come_with_the_docs_say_what_the_page_says(tmp_path, capsys):
    page = (ROOT / "docs/RESULTS.md").read_text("utf-8").splitlines()
    rows = [line for line in page if line.startswith("| ")]
    theirs = unpacked(RUNS, tmp_path / "theirs")
    for protocol in ("base2new", "fewshot"):
        text = printed(capsys, theirs, "--protocol", protocol).partition("average of")[0]
        found = [line for line in text.splitlines() if re.match(r"\| [A-Z]", line)]
        assert len(found) > 20
        assert not [row for row in found if row not in rows]


def section(heading: str) -> set[str]:
    """The rows of tables below a heading of the page."""
    page = (ROOT / "docs/RESULTS.md").read_text("utf-8")
    lines = page.partition(f"### {heading}\n")[2].partition("\n#")[0].splitlines()
    return {line for line in lines if re.match(r"\| [A-Z]", line)}


def test_autoattacks_figures_are_those_of_the_page(tmp_path):
    theirs = unpacked(ATTACKS, tmp_path / "theirs")
    columns = ("natural", "pgd100/1", "autoattack/1")
    found: dict[str, dict[str, str]] = {}
    for evaluation in read_below([theirs / "autoattack"]):
        figures = {
            "/".join(cell.split("/")[1:3]): of for cell, of in evaluation.part["cells"].items()
        } | {"natural": evaluation.part["clean"]}
        for column in columns:
            number = figures[column][evaluation.headline_rule]["accuracy"]
            found.setdefault(evaluation.header["trainer"], {})[f"{evaluation.subset} {column}"] = (
                f"{number:.2f}"
            )
    cells = [f"{subset} {column}" for subset in ("base", "new") for column in columns]
    expected = {f"| {name} | {' | '.join(of[c] for c in cells)} |" for name, of in found.items()}
    assert len(expected) == 8
    assert section("AutoAttack: EuroSAT") == expected


def test_figures_at_4_255_are_those_of_the_page(tmp_path, capsys):
    theirs = unpacked(ATTACKS, tmp_path / "theirs")
    text = printed(capsys, theirs / "eps4", "--protocol", "base2new", "--robust", "eps4")
    rows = [line for line in text.partition("average of")[0].splitlines() if line.startswith("| ")]
    shown = {" | ".join(row.split(" | ")[:7]) + " |" for row in rows if re.match(r"\| [A-Z]", row)}
    assert len(shown) == 16
    assert section("At 4/255") == shown


def test_masking_checks_are_those_of_the_page(tmp_path):
    theirs = unpacked(ATTACKS, tmp_path / "theirs")
    attacks = ("pgd2/1", "pgd10/1", "pgd100/1", "transfer/1", "square/1", "pgd100/4", "pgd100/255")
    shown = set()
    for evaluation in read_below([theirs / "masking"]):
        rule, cells = evaluation.headline_rule, evaluation.part["cells"]
        found = [evaluation.part["clean"], *(cells[f"adversarial/{name}/1"] for name in attacks)]
        numbers = " | ".join(f"{of[rule]['accuracy']:.1f}" for of in found)
        shown.add(f"| {evaluation.header['trainer']} | {numbers} |")
    assert len(shown) == 4
    assert len(section("Masked gradients")) == 8 and shown < section("Masked gradients")


@pytest.mark.parametrize("file", [RUNS, ATTACKS])
def test_nothing_of_a_machine_is_in_the_docs_runs(file):
    with tarfile.open(file) as archive:
        for member in archive:
            assert member.isfile() and not member.name.startswith(("/", "."))
            assert ".." not in Path(member.name).parts
            held = archive.extractfile(member)
            assert isinstance(held, (io.BufferedReader, io.BufferedIOBase))
            results = json.load(held)
            assert not {"host", "command", "fingerprint"} & results.keys()
            if Path(member.name).name == "results.json":
                assert "ROOT" not in results["config"]["DATASET"]
                assert "OUTPUT_DIR" not in results["config"]
