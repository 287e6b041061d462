"""The shell scripts, with a stand-in for Python that writes down how it was called.

So the scripts' own work (finding the repository and the environment, naming folders, installing no
more than is needed) is tested without installing or training anything.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path.relative_to(ROOT) for path in (ROOT / "scripts").glob("**/*.sh"))
COMMANDS = [path for path in SCRIPTS if path.name not in ("common.sh", "settings.sh")]

# Stands for python: notes its arguments, makes a copy of itself for "-m venv", fails on request.
STAND_IN = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$CALLS"
case "$*" in
  *"-m venv "*) mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" ;;
  *"-m pip "*) exit "${PIP_STATUS:-0}" ;;
  *missing_requirements.py*) printf '%s' "${MISSING:-}" ;;
esac
"""


@pytest.fixture
def tree(tmp_path) -> Path:
    """A copy of what the scripts need, at a path with a blank in it."""
    tree = tmp_path / "a tree"
    tree.mkdir()
    for name in ("scripts", "constraints", "configs"):
        shutil.copytree(ROOT / name, tree / name)
    for name in ("requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, tree)
    return tree


@pytest.fixture
def calls(tmp_path) -> Path:
    return tmp_path / "calls"


@pytest.fixture
def stand_in(tmp_path) -> Path:
    """An environment folder whose python is the stand-in."""
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(STAND_IN)
    python.chmod(0o755)
    return tmp_path / "env"


def call(script: Path, *arguments: str, cwd: Path, calls: Path, **environment: str):
    """Run a script in a bare environment; its exit status, output and the calls of Python."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    calls.write_text("")
    done = subprocess.run(
        ["bash", str(script), *arguments],
        cwd=cwd,
        env={**kept, "CALLS": str(calls), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    return done, calls.read_text().splitlines()


def flags_of(command: str) -> dict[str, str]:
    """Flag -> value, for flags that have one; options as their key."""
    words = command.split()
    return {
        word: following
        for word, following in zip(words, words[1:], strict=False)
        if word.startswith("--") or word.isupper() or "." in word
    }


def test_every_script_parses():
    for script in SCRIPTS:
        subprocess.run(["bash", "-n", str(ROOT / script)], check=True)


@pytest.mark.parametrize("script", COMMANDS, ids=str)
def test_help_from_another_folder(script, tmp_path):
    done = subprocess.run(
        ["bash", str(ROOT / script), "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert f"bash {script}" in done.stdout or "bash scripts/METHOD/" in done.stdout
    assert not list(tmp_path.iterdir())


def test_setup_installs_once(tree, stand_in, calls, tmp_path):
    python = str(stand_in / "bin/python")

    def setup(*arguments, **environment):
        return call(
            tree / "scripts/setup.sh", *arguments, cwd=tmp_path, calls=calls, PYTHON=python,
            **environment,
        )  # fmt: skip

    done, python_calls = setup(PIP_STATUS="1")
    assert done.returncode == 1
    assert any("-m venv .venv" in line for line in python_calls)

    done, python_calls = setup()
    assert done.returncode == 0, done.stderr
    assert not any("-m venv" in line for line in python_calls)  # the environment itself was whole
    (install,) = [line for line in python_calls if "-m pip" in line]
    assert "-r requirements.txt" in install and "-r requirements-dev.txt" not in install

    done, python_calls = setup()
    assert (done.returncode, python_calls) == (0, [])
    assert "Nothing to do" in done.stderr

    _, python_calls = setup("--dev")
    assert any("-r requirements-dev.txt" in line for line in python_calls)
    assert setup()[1] == []  # the full set holds the small one

    with open(tree / "requirements.txt", "a") as file:
        file.write("another-package\n")
    assert any("-m pip" in line for line in setup()[1])


def test_setup_begins_anew_after_an_interruption(tree, stand_in, calls, tmp_path):
    (tree / ".venv/bin").mkdir(parents=True)
    (tree / ".venv/bin/leftover").write_text("")
    python = str(stand_in / "bin/python")
    call(tree / "scripts/setup.sh", cwd=tmp_path, calls=calls, PYTHON=python)
    assert not (tree / ".venv/bin/leftover").exists()
    assert (tree / ".venv/bin/python").exists()


@pytest.mark.parametrize("has_driver", [False, True])
def test_cpu_constraint_only_without_an_nvidia_driver(tree, stand_in, calls, tmp_path, has_driver):
    # A PATH that holds what the script calls and nothing else, so that the machine does not matter.
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "awk", "basename", "dirname", "cat", "cksum", "cp", "flock", "mkdir",
                 "rm", "touch", "tr", "uname"):  # fmt: skip
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    if has_driver:
        (tools / "nvidia-smi").write_text("#!/bin/sh\n")
        (tools / "nvidia-smi").chmod(0o755)
    done, python_calls = call(
        tree / "scripts/setup.sh", cwd=tmp_path, calls=calls, PATH=str(tools),
        PYTHON=str(stand_in / "bin/python"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (install,) = [line for line in python_calls if "-m pip" in line]
    assert ("-c constraints/cpu.txt" in install) != has_driver


def test_active_environment_gets_only_what_it_lacks(tree, stand_in, calls, tmp_path):
    environment = {"VIRTUAL_ENV": str(stand_in)}
    done, python_calls = call(tree / "scripts/setup.sh", cwd=tmp_path, calls=calls, **environment)
    assert "nothing is missing" in done.stderr
    assert not any("-m pip" in line for line in python_calls)
    environment["MISSING"] = "gdown>=5.2"
    done, python_calls = call(tree / "scripts/setup.sh", cwd=tmp_path, calls=calls, **environment)
    assert "gdown>=5.2" in done.stderr
    assert any("-m pip install" in line for line in python_calls)
    assert not (tree / ".venv").exists()


def test_dry_run_prints_commands_and_starts_nothing(tree, stand_in, calls, tmp_path):
    for part in ("train", "test"):
        done, python_calls = call(
            tree / f"scripts/anprompt/base2new_{part}.sh", "shapes", "1,2", cwd=tmp_path,
            calls=calls, VIRTUAL_ENV=str(stand_in), OUTPUT="an output", DRY_RUN="1",
        )  # fmt: skip
        assert (done.returncode, python_calls) == (0, []), done.stderr
        first, second = map(shlex.split, done.stdout.splitlines())
        assert first[:2] == [str(stand_in / "bin/python"), str(tree / "train.py")]
        assert second[second.index("--seed") + 1] == "2"
        assert first[first.index("--output-dir") + 1].startswith("an output/base2new/")
    assert not (tmp_path / "an output").exists()


def test_unusable_python_is_refused(tree, calls, tmp_path):
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    for python in (str(old), "no-such-python"):
        done, _ = call(tree / "scripts/setup.sh", cwd=tmp_path, calls=calls, PYTHON=python)
        assert done.returncode == 2
        assert python in done.stderr and len(done.stderr.splitlines()) == 1


def test_train_and_test_folders_are_upstreams(tree, stand_in, calls, tmp_path):
    def run(script: str, *arguments: str, **environment: str) -> list[dict[str, str]]:
        done, python_calls = call(
            tree / "scripts" / script, *arguments, cwd=tmp_path, calls=calls, OUTPUT="out",
            DATA=str(tmp_path), VIRTUAL_ENV=str(stand_in), **environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [flags_of(line) for line in python_calls if "train.py" in line]

    common = "eurosat/shots_16/CoOp/vit_b16_ctxv1-small/seed"
    first, second = run("coop/base2new_train.sh", "eurosat", "1,2", "--", "OPTIM.MAX_EPOCH", "3")
    assert first["--output-dir"] == f"out/base2new/train_base/{common}1"
    assert second["--output-dir"] == f"out/base2new/train_base/{common}2"
    assert (first["--seed"], second["--seed"]) == ("1", "2")
    assert first["--trainer"] == "CoOp"
    assert first["DATASET.SUBSAMPLE_CLASSES"] == "base"
    assert first["DATASET.NUM_SHOTS"] == "16"
    assert first["OPTIM.MAX_EPOCH"] == "3"
    assert "--eval-only" not in first

    (tmp_path / f"out/base2new/train_base/{common}1").mkdir(parents=True)
    (tested,) = run("coop/base2new_test.sh", "eurosat", "1")
    assert tested["--output-dir"] == f"out/base2new/test_new/{common}1"
    assert tested["--model-dir"] == first["--output-dir"]
    assert tested["DATASET.SUBSAMPLE_CLASSES"] == "new"
    assert "--eval-only" in tested

    (published,) = run("coop/base2new_train.sh", "eurosat", "1", BACKBONE="ViT-B/16")
    assert published["--output-dir"].endswith("/CoOp/vit_b16_ctxv1/seed1")
    (tagged,) = run("coop/base2new_train.sh", "imagenet", "1", BACKBONE="ViT-B-32::laion2b_e16")
    assert "/CoOp/vit_b16_ep50_ctxv1-ViT-B-32__laion2b_e16/seed1" in tagged["--output-dir"]
    (chosen,) = run("coop/base2new_train.sh", "eurosat", "1", CFG="rn50", SHOTS="4")
    assert "/shots_4/CoOp/rn50-small/" in chosen["--output-dir"]
    (nested,) = run("anprompt/base2new_train.sh", "eurosat", "1", CFG="ablations/x")
    assert nested["--output-dir"].endswith("/ANPrompt/x-small/seed1")
    (zeroshot,) = run("zsclip/base2new_train.sh", "eurosat", "1")
    assert "--eval-only" in zeroshot and "--model-dir" not in zeroshot


def test_every_method_names_a_config_that_is_there(tree, stand_in, calls, tmp_path):
    for settings in sorted((tree / "scripts").glob("*/settings.sh")):
        for dataset in ("eurosat", "imagenet"):
            done, python_calls = call(
                settings.parent / "base2new_train.sh", dataset, "1", cwd=tmp_path, calls=calls,
                DATA=str(tmp_path), VIRTUAL_ENV=str(stand_in),
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            (command,) = [line for line in python_calls if "train.py" in line]
            config = command.split("--config-file ")[1].split(" --dataset-config-file")[0]
            assert Path(config).is_file()


def test_bad_input_is_said_in_one_line(tree, stand_in, calls, tmp_path):
    def fail(script: str, *arguments: str, **environment: str) -> str:
        done, python_calls = call(
            tree / "scripts" / script, *arguments, cwd=tmp_path, calls=calls,
            VIRTUAL_ENV=str(stand_in), **environment,
        )  # fmt: skip
        assert done.returncode == 2
        assert not any("train.py" in line for line in python_calls)
        errors = [line for line in done.stderr.splitlines() if "error:" in line]
        assert len(errors) == 1
        return errors[0]

    assert "DATA is not set" in fail("coop/base2new_train.sh", "eurosat", "1")
    assert "nowhere" in fail("coop/base2new_train.sh", "eurosat", "1", DATA="nowhere")
    assert "needs DATASET" in fail("coop/base2new_train.sh")
    assert "'8.0': expected SEED" in fail("kgcoop/base2new_train.sh", "shapes", "8.0")
    assert " coop " in fail("base2new.sh", "nothing", "train", "shapes", "1")
    error = fail("coop/base2new_test.sh", "shapes", "7")
    assert "seed7" in error and "base2new_train.sh shapes 7" in error
    assert "--fast" in fail("demo.sh", "--fast")


def test_shapes_needs_no_data(tree, stand_in, calls, tmp_path):
    done, python_calls = call(
        tree / "scripts/anprompt/base2new_train.sh", "shapes", "1", cwd=tmp_path, calls=calls,
        VIRTUAL_ENV=str(stand_in),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (command,) = [line for line in python_calls if "train.py" in line]
    assert "--root" not in command
    assert "BACKBONE=ViT-B/16" in done.stderr  # says which backbone it took and how to name another


def test_missing_requirements(tmp_path):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("torch>=2.0  # there\nno-such-package-here\n-r more.txt\n")
    (tmp_path / "more.txt").write_text("numpy>=999\nPyYAML\n")
    script = ROOT / "scripts/missing_requirements.py"
    done = subprocess.run(
        [sys.executable, str(script), str(requirements)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["no-such-package-here", "numpy>=999"]


def test_demo_ends_in_a_report_of_its_finished_runs(tree, stand_in, calls, tmp_path):
    output = tmp_path / "my output"
    runs = output / "base2new/train_base/shapes/shots_16"
    for name in ("ZeroshotCLIP/a/seed1", "CoOp/b/seed1", "CoOp/b/seed2", "VPT/c/seed1"):
        (runs / name).mkdir(parents=True)
        (runs / name / "results.json").write_text("{}")
    (runs / "CoOp/unfinished/seed1").mkdir(parents=True)
    done, python_calls = call(
        tree / "scripts/demo.sh", "--quick", cwd=tmp_path, calls=calls,
        VIRTUAL_ENV=str(stand_in), OUTPUT=str(output),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    tools = [line.split("/tools/")[1].split(".py")[0] for line in python_calls if "/tools/" in line]
    assert tools == ["sweep", "results", "robustness", "report"]
    noise, page = (
        line for line in python_calls if "/robustness.py" in line or "/report.py" in line
    )
    given = noise.split(" --model-dir ")[1].split(" --noise")[0]
    assert given == f"{runs}/ZeroshotCLIP/a/seed1 {runs}/CoOp/b/seed1"
    assert page.endswith(f"{output} --output {output}/report.html")
    assert f"{output}/report.html" in done.stderr.splitlines()[-1]
