"""The shell scripts, with a stand-in for Python that writes down how it was called.

So the scripts' own work (finding the repository and a Python, installing no more than is wanted,
handing over to ``python -m anprompt``) is tested without installing or training anything.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path.relative_to(ROOT) for path in (ROOT / "scripts").glob("**/*.sh"))
COMMANDS = [path for path in SCRIPTS if path.name != "common.sh"]

# Stands for python: notes its arguments, makes a copy of itself for "-m venv", fails on request. It
# has torch if there is a file "torch" beside it, and lacks what MISSING says.
STAND_IN = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$CALLS"
torch="$(cat "$(dirname "$0")/torch" 2>/dev/null)"
case "$*" in
  *"-m venv "*) mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" ;;
  *"-m pip "*) exit "${PIP_STATUS:-0}" ;;
  *'find_spec("torch")'*) [ -n "$torch" ] ;;
  *requirements-oracles.txt) printf '%s\\n3\\n' "$torch" ;;
  *check_python.py*) printf '%s\\n7\\n%s\\n' "$torch" "${MISSING:-}" ;;
esac
"""


@pytest.fixture
def tree(tmp_path) -> Path:
    """A copy of what the scripts need, at a path with a blank in it."""
    tree = tmp_path / "a tree"
    tree.mkdir()
    for name in ("scripts", "constraints"):
        shutil.copytree(ROOT / name, tree / name)
    for name in ("requirements.txt", "requirements-dev.txt", "requirements-oracles.txt"):
        shutil.copy(ROOT / name, tree)
    return tree


@pytest.fixture
def call(tree, tmp_path):
    """Runs a script in a bare environment; its exit status and output, and the calls of Python."""
    # A PATH that holds what the scripts call and nothing else, so that the machine does not matter.
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "awk", "basename", "dirname", "cat", "cksum", "cp", "flock", "grep",
                 "mkdir", "rm", "sed", "sleep", "touch", "tr", "uname"):  # fmt: skip
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    calls = tmp_path / "calls"

    def go(script: str, *arguments: str, **environment: str):
        calls.write_text("")
        done = subprocess.run(
            [shutil.which("bash"), str(tree / "scripts" / script), *arguments],
            cwd=tmp_path,
            env={"PATH": str(tools), "HOME": str(tmp_path), "CALLS": str(calls), **environment},
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
        return done, calls.read_text().splitlines()

    return go


@pytest.fixture
def python(tmp_path):
    """Makes a stand-in for Python in a folder of its own; its path."""

    def make(name: str, torch: str = "") -> str:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(STAND_IN)
        file.chmod(0o755)
        if torch:
            (file.parent / "torch").write_text(torch)
        return str(file)

    return make


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


@pytest.mark.parametrize(
    "script, arguments, handed_over",
    [
        ("base2new.sh", "coop train dtd 1", "run base2new coop train dtd 1"),
        ("coop/base2new_train.sh", "dtd 1 -- A 1", "run base2new coop train dtd 1 -- A 1"),
        ("coop/xd_test.sh", "dtd", "run crossdata coop test dtd"),
        ("zsclip/few_shot.sh", "dtd 4 1", "run fewshot zsclip dtd 4 1"),
        ("anprompt/reproduce.sh", "base2new --seeds 1", "reproduce base2new --seeds 1"),
        ("anprompt/ablations.sh", "shapes 1", "ablations shapes 1"),
        ("demo.sh", "--quick", "demo --quick"),
        ("robustness.sh", "dtd -- --images 9", "robustness-report dtd -- --images 9"),
    ],
)
def test_scripts_hand_over_to_python(script, arguments, handed_over, call, python, tmp_path):
    python("env/bin/python", "2.9")
    done, calls = call(script, *arguments.split(), VIRTUAL_ENV=str(tmp_path / "env"))
    assert done.returncode == 0, done.stderr
    assert calls[-1] == f"-m anprompt {handed_over}"
    # What is there is looked at once a script, not once a run.
    assert sum("check_python.py" in line for line in calls) == 1


def test_setup_installs_once(call, python, tree):
    builder = python("builder/python")

    def setup(*arguments, **environment):
        return call("setup.sh", *arguments, PYTHON=builder, **environment)

    done, calls = setup(PIP_STATUS="1")
    assert done.returncode == 1
    assert any("-m venv .venv" in line for line in calls)

    done, calls = setup()
    assert done.returncode == 0, done.stderr
    assert not any("-m venv" in line for line in calls)  # the environment itself was whole
    (install,) = [line for line in calls if "-m pip" in line]
    assert "-r requirements.txt" in install and "-r requirements-dev.txt" not in install
    assert "ANPROMPT_INSTALL=no" in done.stderr and "GB" in done.stderr

    done, calls = setup()
    assert done.returncode == 0 and not any("-m pip" in line for line in calls)
    assert "Nothing to do" in done.stderr

    _, calls = setup("--dev")
    assert any("-r requirements-dev.txt" in line for line in calls)
    _, calls = setup("--quiet")  # the full set holds the small one
    assert not any("-m pip" in line for line in calls)

    with open(tree / "requirements.txt", "a") as file:
        file.write("another-package\n")
    assert any("-m pip" in line for line in setup()[1])


def test_setup_begins_anew_after_an_interruption(call, python, tree):
    (tree / ".venv/bin").mkdir(parents=True)
    (tree / ".venv/bin/leftover").write_text("")
    call("setup.sh", PYTHON=python("builder/python"))
    assert not (tree / ".venv/bin/leftover").exists()
    assert (tree / ".venv/bin/python").exists()


@pytest.mark.parametrize("has_driver", [False, True])
def test_cpu_constraint_only_without_an_nvidia_driver(call, python, tmp_path, has_driver):
    if has_driver:
        (tmp_path / "tools/nvidia-smi").write_text("#!/bin/sh\n")
        (tmp_path / "tools/nvidia-smi").chmod(0o755)
    done, calls = call("setup.sh", PYTHON=python("builder/python"))
    assert done.returncode == 0, done.stderr
    (install,) = [line for line in calls if "-m pip" in line]
    assert ("-c constraints/cpu.txt" in install) != has_driver


def which(done: subprocess.CompletedProcess) -> str:
    """The Python that ``setup.sh --which`` printed."""
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return line


def test_a_python_with_torch_is_used_wherever_it_is(call, python, tree, tmp_path):
    venv = {"VIRTUAL_ENV": str(tmp_path / "venv")}
    python("venv/bin/python", "2.8")
    conda = {"CONDA_PREFIX": str(tmp_path / "conda"), "CONDA_DEFAULT_ENV": "base"}
    python("conda/bin/python", "2.7")
    named = {"PYTHON": python("named/python", "2.6")}

    assert which(call("setup.sh", "--which", **conda)[0]).endswith("/conda/bin/python")
    assert which(call("setup.sh", "--which", **venv, **conda)[0]).endswith("/venv/bin/python")
    done, calls = call("setup.sh", "--which", **venv, **conda, **named)
    assert which(done) == named["PYTHON"] and not done.stderr
    assert not any("-m pip" in line or "-m venv" in line for line in calls)
    relative = call("setup.sh", "--which", PYTHON="named/python")[0]
    assert which(relative) == str(tmp_path / "named/python")
    # A container's, or the system's.
    system = python("tools/python3", "2.5")
    assert which(call("setup.sh", "--which")[0]) == system
    assert not (tree / ".venv").exists()


def test_what_has_no_torch_is_no_choice(call, python, tmp_path):
    python("conda/bin/python")
    python("tools/python3")
    conda = {"CONDA_PREFIX": str(tmp_path / "conda"), "CONDA_DEFAULT_ENV": "base"}
    done, calls = call("setup.sh", "--which", **conda)
    assert which(done).endswith("/a tree/.venv/bin/python")
    assert any("-m venv .venv" in line for line in calls)


def test_nothing_is_installed_unasked_where_torch_is(call, python, tmp_path, tree):
    env = {"VIRTUAL_ENV": str(tmp_path / "env"), "MISSING": "gdown>=5.2\nyacs>=0.1.8"}
    python("env/bin/python", "2.6.0+cu124")
    done, calls = call("base2new.sh", "coop", "train", "shapes", **env)
    assert done.returncode == 2
    assert not any("-m pip" in line or "-m anprompt" in line for line in calls)
    for said in ("gdown>=5.2", "about 7 MB", "ANPROMPT_INSTALL=yes", "ANPROMPT_INSTALL=no",
                 "-m pip install 'gdown>=5.2' 'yacs>=0.1.8'"):  # fmt: skip
        assert said in done.stderr

    done, calls = call("base2new.sh", "coop", "train", "shapes", ANPROMPT_INSTALL="no", **env)
    assert done.returncode == 0 and not any("-m pip" in line for line in calls)
    assert calls[-1].startswith("-m anprompt run")

    done, calls = call("setup.sh", ANPROMPT_INSTALL="yes", **env)
    (install,) = [line for line in calls if "-m pip" in line]
    assert install.endswith("gdown>=5.2 yacs>=0.1.8 torch==2.6.0+cu124")  # torch stays
    env["MISSING"] = "torch>=2.6"
    (install,) = [
        line for line in call("setup.sh", ANPROMPT_INSTALL="yes", **env)[1] if "-m pip" in line
    ]
    assert install.endswith(" torch>=2.6")

    builder = python("builder/python")
    done, _ = call("setup.sh", "--which", ANPROMPT_INSTALL="venv", **env, PYTHON=builder)
    assert which(done) == str(tree / ".venv/bin/python")


def test_an_active_environment_without_torch_gets_only_what_it_lacks(call, python, tmp_path, tree):
    env = {"VIRTUAL_ENV": str(tmp_path / "env")}
    python("env/bin/python")
    done, calls = call("setup.sh", **env)
    assert "nothing is missing" in done.stderr
    assert not any("-m pip" in line for line in calls)
    done, calls = call("setup.sh", **env, MISSING="gdown>=5.2")
    (install,) = [line for line in calls if "-m pip" in line]
    assert install.endswith("-c constraints/cpu.txt gdown>=5.2")
    assert "gdown>=5.2" in done.stderr and "ANPROMPT_INSTALL=no" in done.stderr
    assert not (tree / ".venv").exists()


def test_a_dry_run_installs_nothing(call, python, tree, tmp_path):
    python("env/bin/python")
    script = ("coop/base2new_train.sh", "shapes", "1")
    env = {"VIRTUAL_ENV": str(tmp_path / "env"), "MISSING": "gdown>=5.2", "DRY_RUN": "1"}
    done, calls = call(*script, **env)
    assert done.returncode == 0 and calls[-1] == "-m anprompt run base2new coop train shapes 1"
    done, calls = call(*script, DRY_RUN="1", PYTHON=python("builder/python"))
    assert done.returncode == 2 and "scripts/setup.sh" in done.stderr
    assert not any("-m pip" in line for line in calls) and not (tree / ".venv").exists()


def test_unusable_python_is_refused(call, tmp_path):
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    for python in (str(old), "no-such-python"):
        done, _ = call("setup.sh", PYTHON=python)
        assert done.returncode == 2
        assert python in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("given", [{"ANPROMPT_INSTALL": "maybe"}, {}])
def test_misspelt_words_of_setup_are_refused(given, call):
    done, _ = call("setup.sh", *([] if given else ["--fast"]), **given)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and ("maybe" in line or "--fast" in line)


def test_the_fast_tier_leaves_slow_tests_out(call, python, tmp_path):
    python("env/bin/python", "2.9")
    env = {"VIRTUAL_ENV": str(tmp_path / "env")}
    _, calls = call("test.sh", "--fast", "tests/dassl", **env)
    assert calls[-1] == "-m pytest -n auto --maxprocesses 4 -m not slow tests/dassl"
    _, calls = call("test.sh", "tests/dassl", **env)
    assert calls[-1] == "-m pytest -n auto --maxprocesses 4 tests/dassl"


def test_what_a_python_lacks(tmp_path):
    import torch

    requirements = tmp_path / "requirements.txt"
    requirements.write_text("torch>=2.0  # there\nno-such-package-here\n-r more.txt\n")
    (tmp_path / "more.txt").write_text("numpy>=999\nPyYAML\n")
    script = ROOT / "scripts/check_python.py"
    done = subprocess.run(
        [sys.executable, str(script), str(requirements)], capture_output=True, text=True, check=True
    )
    version, megabytes, *missing = done.stdout.splitlines()
    assert version == torch.__version__ and int(megabytes) > 3
    assert missing == ["no-such-package-here", "numpy>=999"]


def test_demo_ends_in_a_report_of_its_runs(tmp_path, monkeypatch, capsys):
    from anprompt.commands import demo

    steps = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OUTPUT", str(tmp_path / "my output"))
    monkeypatch.setenv("CFG", "rn50")
    (tmp_path / "my output").mkdir()

    def note(name):
        return lambda argv, *_, **__: steps.append((name, argv)) or 0

    monkeypatch.setattr(demo.sweep, "run", note("sweep"))
    monkeypatch.setattr(demo.table, "main", note("table"))
    monkeypatch.setattr(demo.report, "main", note("report"))

    class Done:
        returncode = 0

    monkeypatch.setattr(demo.subprocess, "run", lambda c, **_: steps.append(("noise", c)) or Done)
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", dict(os.environ))
        assert demo.main(["--quick"]) == 0
    assert [name for name, _ in steps] == ["sweep", "table", "noise", "report"]
    args, noise, page = steps[0][1], steps[2][1], steps[3][1]
    assert args.environment.backbone == "small" and not args.environment.config
    output = str(tmp_path / "my output")
    runs = noise[noise.index("--model-dir") + 1 : noise.index("--noise")]
    assert [Path(run).relative_to(output).parts[4:] for run in runs] == [
        ("ZeroshotCLIP", "vit_b16-small", "seed1"),
        ("CoOp", "vit_b16_ep50_ctxv1-small", "seed1"),
        ("MaPLe", "vit_b16_c2_ep5_batch4_2ctx-small", "seed1"),
        ("ANPrompt", "vit_b16-small", "seed1"),
    ]
    assert page == [output, "--output", f"{output}/report.html"]
    assert f"{output}/report.html" in capsys.readouterr().err.splitlines()[-1]


def test_robustness_of_all_runs(tmp_path, monkeypatch):
    from anprompt.commands import robustness_report as command

    calls = []
    monkeypatch.setattr(command.robustness, "main", lambda argv: calls.append(argv) or 0)
    monkeypatch.setattr(command.report, "main", lambda argv: calls.append(argv) or 0)
    output = str(tmp_path / "output")
    for name, value in (("OUTPUT", output), ("DATA", "/data"), ("SHOTS", "4")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("DESCRIPTIONS", raising=False)
    with pytest.raises(ValueError, match="train first"):
        command.main([])
    for dataset in ("eurosat", "shapes"):
        (tmp_path / f"output/base2new/train_base/{dataset}/shots_4").mkdir(parents=True)
    assert command.main(["--", "--images", "9"]) == 0
    trained = f"{output}/base2new/train_base"
    own = ["--descriptions", str(ROOT / "configs/descriptions/Shapes.json")]
    assert calls == [
        ["--model-dir", f"{trained}/eurosat/shots_4", "--root", "/data", "--images", "9"],
        ["--model-dir", f"{trained}/shapes/shots_4", "--root", "/data", *own, "--images", "9"],
        [output, "--output", f"{output}/report.html"],
    ]
    with pytest.raises(ValueError, match="no runs of 'dtd'"):
        command.main(["dtd"])
    monkeypatch.setenv("SHOTS", "2")
    with pytest.raises(ValueError, match="set SHOTS"):
        command.main(["shapes"])
