"""What the documentation shows is there: commands, YAML, JSON, imports, settings and files.

Every command line of every page is parsed by the program that it names. Those that can be asked to
run nothing (``DRY_RUN=1``) are run so. What needs more than parsing has tests of its own:
``tests/anprompt/test_results_docs.py`` runs TABLES, ``tests/trainers/test_adding_a_method.py``
follows ADDING_A_METHOD, ``tests/datasets/test_datasets_docs.py`` runs DATASETS' example.
"""

import argparse
import ast
import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

import parse_test_res
import trainers  # noqa: F401  (registers them)
from anprompt.__main__ import COMMANDS
from anprompt.runs.arguments import make_parser
from anprompt.runs.config import default_cfg
from anprompt.sweeps import devices
from common.cli import CommandParser
from common.settings import leaves
from dassl.engine import TRAINER_REGISTRY

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DRY = {"run", "sweep", "reproduce", "ablations", "demo"}
"""Commands that know DRY_RUN."""

NEED_ARGUMENTS = {"run", "sweep", "reproduce", "compare", "robustness", "predict", "data"}
NEED_ARGUMENTS |= {"calibrate", "export", "interpret"}

ELSEWHERE = ("~/CoOp", "WEIGHTS")
"""In what only a checkout or files of upstream's can run."""


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(text: str, *languages: str) -> list[str]:
    """Return the fenced blocks in one of the languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [body for language, body in found if language in languages]


def commands(page: Path) -> list[str]:
    """Return the command lines of a page: in blocks, indented, and inline; variables filled in."""
    text = re.sub(r"<<'EOF'\n.*?^EOF$", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    found = [line for block in blocks(text, "bash", "") for line in block_lines(block)]
    rest = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    indented = "\n".join(re.findall(r"^    (.*)$", rest, flags=re.MULTILINE))
    found += block_lines(indented)
    found += [" ".join(span.split()) for span in re.findall(r"`([^`\n]+\n?[^`\n]*)`", rest)]
    variables: dict[str, str] = {}
    lines = []
    for line in found:
        for name, value in variables.items():
            line = line.replace(f"${name}", value)
        if given := re.match(r'(?:export )?([a-z]+)="([^"]*)"', line):
            variables[given[1]] = given[2]
            line = given[2]
        if re.match(r"([A-Z_]+=\S+ )*(bash|python) +[a-z.-]", line):
            lines.append(line)
    return lines


def block_lines(block: str) -> list[str]:
    joined = re.sub(r" ?\\?\n {2,}", " ", block)  # continued lines are indented
    return [line.strip() for line in joined.splitlines() if line.strip()]


def words_of(line: str) -> tuple[dict[str, str], list[str]]:
    """Return the environment and the words of a command, without what stands for more of it."""
    line = re.split(r" (?:\||>|&&|\() ?", line.replace("...`", ""))[0]
    words = shlex.split(re.sub(r"\[.*?\]", "", line), comments=True)  # what may be left out
    environment = {}
    while words and re.match(r"[A-Z_]+=", words[0]):
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    return environment, [word for word in words if word != "..."]


CASES = {f"{page.stem}: {line}": line for page in PAGES for line in commands(page)}


class Parsed(Exception):  # noqa: N818
    """Thrown in the place of what a command would do after it has parsed its arguments."""


@pytest.fixture
def parse_only(monkeypatch):
    """Makes the parsers of commands end them once the arguments are understood."""
    parse = argparse.ArgumentParser.parse_args

    def stop(self, *args, **kwargs):
        parse(self, *args, **kwargs)
        raise Parsed

    def error(self, message):
        raise AssertionError(message)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(CommandParser, "error", error)


@pytest.fixture
def dry_run(monkeypatch, tmp_path):
    """An environment in which nothing runs: no weights, an empty folder of data sets; eight GPUs.

    Those are not used, but named by commands of the pages.
    """
    monkeypatch.setattr(devices, "visible_gpus", lambda: list(map(str, range(8))))
    for name, value in (("DRY_RUN", "1"), ("BACKBONE", "small"), ("DATA", str(tmp_path))):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OUTPUT", str(tmp_path / "output"))
    (tmp_path / "my_method.py").write_text("")  # a method that is there stands for it
    (tmp_path / "my_method.yaml").write_text("OPTIM:\n  MAX_EPOCH: 2\n")
    monkeypatch.chdir(tmp_path)


def handed_over(script: Path, arguments: list[str]) -> list[str]:
    """Return the words after ``python -m anprompt`` that a script of ``scripts/`` ends in."""
    last = text_of(script).splitlines()[-1]
    if call := re.fullmatch(r'exec bash "\$\(.*\)/\.\./(\S+\.sh)" (.*) "\$@"', last):
        return handed_over(ROOT / "scripts" / call[1], [*call[2].split(), *arguments])
    call = re.fullmatch(r'anprompt (.*) "\$@"', last)
    assert call, f"{script} ends in {last!r}"
    return [*call[1].split(), *arguments]


@pytest.mark.parametrize("line", CASES.values(), ids=CASES)
def test_commands_are_understood(line, request, monkeypatch):
    if any(word in line for word in ELSEWHERE):
        pytest.skip("needs a checkout or files of upstream's")
    environment, (program, *words) = words_of(line)
    script = ROOT / program
    if program in ("bash", "python") and words[0] != "-m":
        script = ROOT / words.pop(0)
    if program == "python" and words[:2] == ["-m", "pytest"]:
        script, words = ROOT / "scripts/test.sh", words[2:]
    if program == "python" and words[0] == "-m" and words[1].startswith("benchmarks."):
        script, words = (ROOT / words[1].replace(".", "/")).with_suffix(".py"), words[2:]
    words = [word.replace("MyMethod", "CoOp") for word in words]
    if script.name == "gpu_check.sh":
        assert text_of(script).splitlines()[-1] == 'exec "$PY" -m benchmarks.gpu_check "$@"'
        script = ROOT / "benchmarks/gpu_check.py"
    if script.suffix == ".sh":
        assert script.is_file()
        if script.name in ("test.sh", "setup.sh"):
            paths = [word for word in words if word.startswith("tests/")]
            assert all((ROOT / path).exists() for path in paths)
            return
        program, words = "anprompt", handed_over(script, words)
    elif words[:2] == ["-m", "anprompt"]:
        program, words = "anprompt", words[2:]
    if program == "anprompt":
        request.getfixturevalue("dry_run")
        understood(words, environment, request, monkeypatch)
    elif script.parent == ROOT / "benchmarks" or "tests/" in str(script):
        request.getfixturevalue("parse_only")
        module = importlib.import_module(".".join(script.relative_to(ROOT).with_suffix("").parts))
        monkeypatch.setattr("sys.argv", [script.name, *words])
        with pytest.raises((Parsed, SystemExit)) as end:
            module.main()
        assert end.type is Parsed or end.value.code == 0
    elif script.name == "parse_test_res.py":
        request.getfixturevalue("parse_only")
        with pytest.raises(Parsed):
            parse_test_res.main(words)
    elif script.name == "train.py":
        if "--help" in words:
            return
        args = make_parser().parse_args(words)
        files = [file for file in (args.config_file, args.dataset_config_file) if "/" in file]
        assert all((ROOT / file).is_file() for file in files)
    elif words[:2] == ["-m", "anprompt.runs.settings_reference"]:
        importlib.import_module(words[1])
    else:
        assert script == ROOT / ".ci/run" and script.is_file()


def understood(words: list[str], environment: dict[str, str], request, monkeypatch) -> None:
    """Run a command of ``python -m anprompt`` dry, or parse its arguments."""
    name, *arguments = words or ["--help"]
    if name == "--help":
        return
    assert name in COMMANDS
    if not arguments and name in NEED_ARGUMENTS:
        return  # the sentence is about the command
    command = importlib.import_module(f"anprompt.commands.{name.replace('-', '_')}")
    for key, value in environment.items():
        if value not in ("...", "/path/to/datasets") and key in ("CFG", "LOADEP", "PLUGIN"):
            monkeypatch.setenv(key, value)
    if name not in DRY or "--help" in arguments:
        request.getfixturevalue("parse_only")
        with pytest.raises((Parsed, SystemExit)) as end:
            command.main(arguments)
        assert end.type is Parsed or end.value.code == 0
        return
    assert command.main([word for word in arguments if word != "--status"]) == 0


def test_all_pages_are_read():
    assert len(CASES) > 120
    assert {name.partition(":")[0] for name in CASES} >= {page.stem for page in PAGES} - {
        *("SETTINGS", "METHOD", "NOISE", "index"),
    }


@pytest.fixture(scope="module")
def settings() -> set[str]:
    """The names of all settings of all trainers."""
    names = {name for trainer in ("", *own_trainers()) for name, _ in leaves(default_cfg(trainer))}
    return names | {name.rpartition(".")[0] for name in names}


def own_trainers() -> list[str]:
    names = TRAINER_REGISTRY.registered_names()
    return [name for name in names if TRAINER_REGISTRY.get(name).__module__.startswith("trainers.")]


YAML = [
    (page.stem, block)
    for page in PAGES
    for block in blocks(text_of(page), "yaml", "yml")
    + re.findall(r"\.yaml <<'EOF'\n(.*?)^EOF$", text_of(page), re.DOTALL | re.MULTILINE)
]


@pytest.mark.parametrize(("page", "block"), YAML, ids=[page for page, _ in YAML])
def test_yaml_holds_settings_that_there_are(page, block, tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    path = tmp_path / "my" / "own" / "shown.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(block)
    method = next(iter(yaml.safe_load(block).get("TRAINER", {"": 0})))
    cfg = default_cfg("ANPrompt")
    if method == "MY_METHOD":  # ADDING_A_METHOD declares it
        cfg.TRAINER.MY_METHOD = type(cfg)({"WEIGHT": 0.1})
    cfg.merge_from_file(str(path))


def test_settings_that_are_named_are_there(settings):
    nodes = {name.split(".")[0] for name in settings}
    missing = set()
    for page in PAGES:
        for span in re.findall(r"`([^`\n]+)`", text_of(page)):
            for name in re.findall(r"(?<![\w/.])([A-Z_]+(?:\.\w+)+)(?![\w.]*/)", span):
                if name.split(".")[0] in nodes and name not in settings:
                    missing.add(f"{page.stem}: {name}")
    assert missing == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_json_and_python_are_what_they_look_like(page):
    for block in blocks(text_of(page), "json"):
        json.loads(block)
    for block in blocks(text_of(page), "python"):
        if block.startswith((" ", "@")):  # part of a class, which another test puts into one
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_and_pages_that_are_named_are_there(page):
    text = text_of(page)
    for target in re.findall(r"\]\(([^)#:]+)(?:#\w+)?\)", text):
        assert (page.parent / target).exists(), target
    folders = "|".join(path.name for path in ROOT.iterdir() if path.is_dir())
    for line in text.splitlines():
        if "upstream" in line or line.startswith("| `scripts/"):  # theirs, beside ours
            continue
        for path in re.findall(
            rf"(?<![\w/.])((?:{folders})/[\w./+-]+\.(?:py|sh|yaml|md|json))", line
        ):
            if not re.search(r"[A-Z]{4,}/|/my_|mine|birds|MyMethod", path):
                assert (ROOT / path).exists(), path
