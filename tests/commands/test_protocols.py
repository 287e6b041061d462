"""Protocols: every method has every script, and every script runs on fake data, train.py included.

The scripts are called with a stand-in for Python that keeps what it was called with; train.py then
runs that command in this process, shortened.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

import train

ROOT = Path(__file__).resolve().parents[2]
METHODS = sorted(path.parent.name for path in (ROOT / "scripts").glob("*/settings.sh"))
WRAPPERS = ("base2new_train", "base2new_test", "xd_train", "xd_test", "few_shot")
QUICK = ["OPTIM.MAX_EPOCH", "1", "DATALOADER.NUM_WORKERS", "0", "TRAIN.PRINT_FREQ", "100"]
TASKS = {"base2new": "B2N", "crossdata": "CD", "fewshot": "FS"}

# Stands for python: one line for a call of train.py, its arguments between tabs.
STAND_IN = """#!/usr/bin/env bash
case "$1" in
  */train.py) shift; (IFS=$'\\t'; printf '%s\\n' "$*") >> "$CALLS" ;;
esac
"""


@pytest.fixture(scope="module")
def data(fake_eurosat, tmp_path_factory) -> Path:
    """EuroSAT; and what is called Caltech101 here, four of EuroSAT's classes."""
    root = tmp_path_factory.mktemp("datasets")
    (root / "eurosat").symlink_to(fake_eurosat / "eurosat")
    split = json.loads((fake_eurosat / "eurosat/split_zhou_EuroSAT.json").read_text())
    caltech = root / "caltech-101"
    caltech.mkdir()
    (caltech / "101_ObjectCategories").symlink_to(fake_eurosat / "eurosat/2750")
    few = {part: [entry for entry in entries if entry[1] < 4] for part, entries in split.items()}
    (caltech / "split_zhou_Caltech101.json").write_text(json.dumps(few))
    return root


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """An environment folder whose python is the stand-in."""
    env = tmp_path_factory.mktemp("env")
    (env / "bin").mkdir()
    (env / "bin/python").write_text(STAND_IN)
    (env / "bin/python").chmod(0o755)
    return env


@pytest.fixture
def commands(python, data, tiny_clip_path, tmp_path):
    """Calls a script; the arguments of the train.py calls that it makes."""

    def call(script: str, *arguments: str, **environment: str) -> list[list[str]]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        calls = tmp_path / "calls"
        calls.write_text("")
        given = {"OUTPUT": tmp_path / "out", "DATA": data, "BACKBONE": tiny_clip_path}
        given |= {"VIRTUAL_ENV": python, "CALLS": calls, **environment}
        done = subprocess.run(
            ["bash", str(ROOT / "scripts" / script), *arguments],
            cwd=tmp_path,
            env={**kept, **{name: str(value) for name, value in given.items()}},
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise ChildProcessError(f"status {done.returncode}: {done.stderr}")
        return [line.split("\t") for line in calls.read_text().splitlines()]

    return call


@pytest.fixture
def run(commands, capsys):
    """Calls a script that makes one run, makes the run; its folder's results."""

    def call(script: str, *arguments: str, **environment: str) -> dict:
        (command,) = commands(script, *arguments, *QUICK, **environment)
        assert train.main(command) == 0, capsys.readouterr().err
        folder = Path(value_of(command, "--output-dir"))
        return {**json.loads((folder / "results.json").read_text()), "folder": folder}

    return call


def value_of(command: list[str], name: str) -> str:
    """The value that counts: the last one given."""
    last = max(index for index, word in enumerate(command) if word == name)
    return command[last + 1]


def run_of(results: dict, output: Path) -> tuple[str, ...]:
    """The parts of a run's folder, those of method, configuration and seed left out."""
    assert results["folder"].name == "seed1"
    assert results["folder"].parents[1].name == results["trainer"]
    return results["folder"].relative_to(output).parts[:-3]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_every_script(method, commands, tmp_path):
    folder = ROOT / "scripts" / method
    assert not [name for name in WRAPPERS if not (folder / f"{name}.sh").is_file()]
    calls = {
        "base2new_train": (["eurosat", "1"], "base2new"),
        "base2new_test": (["eurosat", "1"], "base2new"),
        "xd_train": (["caltech101", "1"], "crossdata"),
        "xd_test": (["eurosat", "1"], "crossdata"),
        "few_shot": (["eurosat", "4", "1"], "fewshot"),
    }
    trained = []
    for name in WRAPPERS:
        for dataset in trained:
            dataset.mkdir(parents=True, exist_ok=True)  # what a test reads
        arguments, protocol = calls[name]
        (command,) = commands(f"{method}/{name}.sh", *arguments, SOURCE="caltech101")
        assert Path(value_of(command, "--config-file")).is_file()
        assert value_of(command, "TASK") == TASKS[protocol]
        evaluates = name.endswith("_test")
        output = Path(value_of(command, "--output-dir"))
        if "--model-dir" in command:
            assert evaluates and Path(value_of(command, "--model-dir")) in trained
        elif "--eval-only" not in command:
            assert not evaluates
            trained.append(output)
        assert output.relative_to(tmp_path / "out").parts[0] == protocol


def test_a_wrapper_is_one_call():
    for method in METHODS:
        for name in WRAPPERS:
            lines = (ROOT / "scripts" / method / f"{name}.sh").read_text().splitlines()
            (code,) = [line for line in lines if not line.startswith("#")]
            assert code.startswith('exec bash "$(dirname "${BASH_SOURCE[0]}")/../')
            assert f'.sh" {method} ' in code and code.endswith('"$@"')
            assert any(f"bash scripts/{method}/{name}.sh " in line for line in lines)


@pytest.mark.parametrize("method", METHODS)
def test_cross_dataset_from_four_classes_to_ten(method, run, tmp_path):
    source = run(f"{method}/xd_train.sh", "caltech101", "1", SHOTS="1")
    output = tmp_path / "out"
    assert run_of(source, output) == ("crossdata", "train", "caltech101", "shots_1")
    assert (source["dataset"], source["subsample_classes"]) == ("Caltech101", "all")
    assert len(source["per_class"]) == 4
    target = run(f"{method}/xd_test.sh", "eurosat", "1", SHOTS="1", SOURCE="caltech101")
    assert run_of(target, output) == ("crossdata", "test", "caltech101", "eurosat", "shots_1")
    assert (target["dataset"], target["subsample_classes"]) == ("EuroSAT", "all")
    assert len(target["per_class"]) == 10
    if source["headline_rule"] == "mix":  # a method that knows the source from other data sets
        assert target["headline_rule"] == "class"
        assert set(target["rules"]) == {"mix", "class"}


@pytest.mark.parametrize("method", METHODS)
def test_few_shot_on_all_classes(method, run, tmp_path):
    results = run(f"{method}/few_shot.sh", "eurosat", "1", "1")
    assert run_of(results, tmp_path / "out") == ("fewshot", "eurosat", "shots_1")
    assert (results["shots"], results["subsample_classes"]) == (1, "all")
    assert len(results["per_class"]) == 10
    assert results["headline_rule"] != "class" or not results["rules"]


def test_base_to_new_with_the_same_scripts(run, tmp_path):
    base = run("anprompt/base2new_train.sh", "eurosat", "1", "--", SHOTS="1")
    new = run("anprompt/base2new_test.sh", "eurosat", "1", "--", SHOTS="1")
    assert (base["subsample_classes"], new["subsample_classes"]) == ("base", "new")
    assert (base["headline_rule"], new["headline_rule"]) == ("mix", "class")


def test_seeds_and_shots_as_lists_and_by_default(commands, tmp_path):
    def runs(*call: str, **environment: str) -> list[tuple[str, str]]:
        made = commands(*call, **environment)
        return [(value_of(c, "DATASET.NUM_SHOTS"), value_of(c, "--seed")) for c in made]

    one = runs("coop/few_shot.sh", "eurosat", "4")  # PromptSRC's arguments
    assert one == [("4", "1"), ("4", "2"), ("4", "3")]
    all_of_them = runs("coop/few_shot.sh", "eurosat")  # MMRL's
    assert len(all_of_them) == 15 and ("16", "3") in all_of_them
    assert runs("coop/few_shot.sh", "eurosat", "1,2", "5", "--", "OPTIM.LR", "1") == [
        ("1", "5"),
        ("2", "5"),
    ]
    assert runs("coop/few_shot.sh", "eurosat", "OPTIM.LR", "1", SHOTS="8")[0] == ("8", "1")
    assert runs("coop/xd_train.sh", "caltech101", "1,2") == [("16", "1"), ("16", "2")]
    (by_environment,) = commands("coop/xd_train.sh", "3", SOURCE="eurosat")  # CoCoOp's argument
    assert "crossdata/train/eurosat" in value_of(by_environment, "--output-dir")


def test_schedule_grows_with_shots_as_in_coops_paper(commands):
    made = commands("coop/few_shot.sh", "eurosat", "1,2,4,8,16", "1")
    names = [Path(value_of(command, "--config-file")).stem for command in made]
    assert names == ["vit_b16_ep50", "vit_b16_ep100", "vit_b16_ep100", "vit_b16", "vit_b16"]


def test_seeds_left_out_are_upstreams_three(commands):
    for script, arguments in (("mmrl/base2new_train", ["eurosat"]), ("coop/xd_train", [])):
        made = commands(f"{script}.sh", *arguments, SOURCE="caltech101")
        assert [value_of(command, "--seed") for command in made] == ["1", "2", "3"]
    (one,) = commands("mmrl/base2new_train.sh", "eurosat", "2", "OPTIM.MAX_EPOCH", "3")
    assert value_of(one, "--seed") == "2" and value_of(one, "OPTIM.MAX_EPOCH") == "3"
    made = commands("mmrl/base2new_train.sh", "eurosat", "OPTIM.MAX_EPOCH", "3")
    assert [value_of(command, "OPTIM.MAX_EPOCH") for command in made] == ["3"] * 3


def test_a_plugin_reaches_train_py(commands):
    (command,) = commands("coop/base2new_train.sh", "eurosat", "1", PLUGIN="my own.py")
    assert value_of(command, "--plugin") == "my own.py"


def test_bad_input_is_said_in_one_line(commands):
    def fail(*call: str, **environment: str) -> str:
        with pytest.raises(ChildProcessError, match="^status 2") as caught:
            commands(*call, **environment)
        (line,) = [line for line in str(caught.value).splitlines() if "error:" in line]
        return line

    assert "xd_train.sh imagenet 1" in fail("coop/xd_test.sh", "eurosat", "1")
    assert "eurosat is the source" in fail("coop/xd_test.sh", "eurosat", "1", SOURCE="eurosat")
    assert "expected SEED" in fail("coop/xd_test.sh", "eurosat", "0.5")
    assert "needs a data set" in fail("coop/xd_test.sh")
    assert "DATASET" in fail("coop/few_shot.sh")
    assert "DATA is not set" in fail("coop/few_shot.sh", "eurosat", "1", DATA="")
    assert "no method" in fail("crossdata.sh", "nothing", "train", "eurosat", "1")
    assert "expected train or test" in fail("crossdata.sh", "coop")
    assert "expected base2new" in fail("anprompt/reproduce.sh", "b2n")


def test_contexts_of_each_class_are_refused_for_other_classes(commands, run, capsys):
    csc = ["TRAINER.COOP.CSC", "True", "TRAINER.COOP.CTX_INIT", "", "DATASET.NUM_SHOTS", "1"]
    run("coop/base2new_train.sh", "eurosat", "1", *csc)
    (same_number,) = commands("coop/base2new_test.sh", "eurosat", "1", *csc, *QUICK)
    run("coop/xd_train.sh", "caltech101", "1", *csc)
    (another_number,) = commands(
        "coop/xd_test.sh", "eurosat", "1", *csc, *QUICK, SOURCE="caltech101"
    )
    for command in (same_number, another_number):
        capsys.readouterr()
        assert train.main(command) == 2
        error = capsys.readouterr().err
        assert "TRAINER.COOP.CSC" in error and len(error.splitlines()) == 1
        assert not Path(value_of(command, "--output-dir")).exists()


def test_domain_generalisation_is_cross_dataset_with_other_targets(commands):
    (trained,) = commands("mmrl/xd_train.sh", "imagenet", "1")
    Path(value_of(trained, "--output-dir")).mkdir(parents=True)
    (tested,) = commands("mmrl/xd_test.sh", "imagenet_a", "1")
    assert "crossdata/test/imagenet/imagenet_a/shots_16" in value_of(tested, "--output-dir")
    assert value_of(tested, "--config-file") == value_of(trained, "--config-file")
    assert value_of(tested, "--model-dir") == value_of(trained, "--output-dir")
