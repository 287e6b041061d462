"""python -m anprompt robustness on real runs: its figures against slow ones, resuming, refusals."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from runs_of_tests import ROOT, run_folder

from anprompt.__main__ import main
from anprompt.results.noise.cells import (
    by_group,
    mean_over_cells,
    seen_by_any,
    unseen_in_training,
)
from anprompt.results.noise.compare import common_keys, compare
from anprompt.results.noise.files import read_evaluations
from anprompt.robustness.attacks import autoattack, parts_of_autoattack
from anprompt.robustness.images import image_key, select, split_transform
from anprompt.robustness.store import Results, Store
from anprompt.robustness.texts import noisy_prompts
from anprompt.runs.fingerprint import fingerprint
from anprompt.runs.trained import quiet, read_cfg, training_folder
from common.errors import UsageError
from dassl.data.datasets import build_dataset
from dassl.engine import build_trainer
from dassl.utils import read_image, save_checkpoint
from noise.cells import Cell
from noise.image import corrupt
from noise.metrics import calibration_error
from noise.seeding import rng_for
from noise.text import perturb_prompt, text_rate

pytestmark = pytest.mark.slow

SMALL = ["--noise", "char,embed,gaussian_noise,blur,both,learned,pgd", "--severities", "1,4",
         "--seeds", "1", "--images", "20", "--eps", "4"]  # fmt: skip


def call(capsys, *arguments):
    capsys.readouterr()
    try:
        status = main(["robustness", *map(str, arguments)])
    except SystemExit as end:
        status = end.code
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def content(folder: Path) -> dict:
    return json.loads((folder / "robustness.json").read_text())


@pytest.fixture(scope="module")
def output(trained_output, tmp_path_factory) -> Path:
    """A copy of the trained runs, all four evaluated in one call."""
    folder = tmp_path_factory.mktemp("evaluated") / "output"
    shutil.copytree(trained_output, folder)
    assert main(["robustness", "--model-dir", str(folder), *SMALL]) == 0
    return folder


@pytest.fixture
def fresh(trained_output, tmp_path) -> Path:
    """An own copy of the trained runs, not evaluated."""
    shutil.copytree(trained_output, tmp_path / "output")
    return tmp_path / "output"


# Figures ---------------------------------------------------------------------------------------


def reference(folder: Path, part: str, classnames=None, corrupted=None, images=20):
    """Labels and probabilities (by rule) of a run, by way of the ordinary trainer and loops."""
    cfg = read_cfg(folder)
    cfg.DATASET.SUBSAMPLE_CLASSES = part
    cfg.DATALOADER.NUM_WORKERS = 0
    with quiet():
        dataset = build_dataset(cfg)
        trainer = build_trainer(cfg)
        if classnames is not None:
            prompts = trainer.model.prompts.with_texts(classnames)
            trainer.model = trainer.build(cfg, trainer.model.clip, prompts).eval()
        trainer.load_model(str(training_folder(cfg)))
        trainer.model.eval()
    crop, after = split_transform(cfg)
    used = {e.subset: e.part for e in read_evaluations(folder)}[part]["images"]["used"]
    assert used == images
    keys = [image_key(item.impath, dataset, cfg.DATASET.ROOT) for item in dataset.test]
    labels = [item.label for item in dataset.test]
    chosen = select(keys, labels, images)
    pixels = []
    for index in chosen:
        picture = crop(read_image(dataset.test[index].impath))
        if corrupted is not None:
            picture = corrupted(picture, keys[index])
        pixels.append(after(torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255))
    with torch.no_grad():
        rules = trainer.model_inference_rules(torch.stack(pixels))
        if rules is None:
            rules = {"class": trainer.model_inference(torch.stack(pixels))}
    probabilities = {rule: values.softmax(dim=-1).numpy() for rule, values in rules.items()}
    return np.array([labels[i] for i in chosen]), probabilities, dataset.classnames


def check_cell(folder, part, key, labels, noisy, clean):
    found = content(folder)["parts"][part]["cells"][key]
    assert set(found) == set(noisy)
    for rule, probabilities in noisy.items():
        answers = probabilities.argmax(axis=1)
        assert found[rule]["accuracy"] == pytest.approx(100 * np.mean(answers == labels))
        assert found[rule]["consistency"] == pytest.approx(
            100 * np.mean(answers == clean[rule].argmax(axis=1))
        )
        error = 100 * calibration_error(probabilities.max(axis=1), answers == labels)
        assert found[rule]["ece"] == pytest.approx(error, abs=0.01)


@pytest.mark.parametrize(("trainer", "part"), [("ANPrompt", "base"), ("MaPLe", "new")])
def test_image_noise_is_what_a_plain_loop_gives(output, trainer, part):
    folder = run_folder(output, trainer)
    labels, clean, _ = reference(folder, part)

    def noise(picture, key):
        return corrupt(picture, "gaussian_noise", 4, rng_for(1, "image", key, "gaussian_noise"))

    _, noisy, _ = reference(folder, part, corrupted=noise)
    check_cell(folder, part, "image/gaussian_noise/4/1", labels, noisy, clean)
    recorded = content(folder)["parts"][part]["clean"]
    for rule, probabilities in clean.items():
        accuracy = 100 * np.mean(probabilities.argmax(axis=1) == labels)
        assert recorded[rule]["accuracy"] == pytest.approx(accuracy)


def test_text_noise_is_what_perturbed_class_names_give(output):
    folder = run_folder(output, "CoOp")
    labels, clean, classnames = reference(folder, "base")
    rate = text_rate("char", 4)
    perturbed = [
        perturb_prompt("{}", name, "char", rate, rng_for(1, "text", "char", name))
        for name in classnames
    ]
    assert perturbed != classnames
    _, noisy, _ = reference(folder, "base", classnames=[name.rstrip(".") for name in perturbed])
    check_cell(folder, "base", "text/char/4/1", labels, noisy, clean)


def test_one_call_for_all_equals_one_call_each(output, fresh, capsys):
    folder = run_folder(fresh, "CoOp")
    assert call(capsys, "--model-dir", folder, *SMALL, "--batch-size", 7)[0] == 0
    together, alone = content(run_folder(output, "CoOp")), content(folder)
    assert alone["parts"]["new"]["classnames"] == together["parts"]["new"]["classnames"]
    for part in ("base", "new"):
        a, b = together["parts"][part], alone["parts"][part]
        assert a["cells"].keys() == b["cells"].keys()
        for key in a["cells"]:
            for rule, figures in a["cells"][key].items():
                assert b["cells"][key][rule] == pytest.approx(figures, abs=1e-3)
        assert [e["image"] for e in a["examples"]] == [e["image"] for e in b["examples"]]
        shown = [{(v["kind"], v["severity"]) for v in e["views"]} for e in a["examples"]]
        kinds = ("gaussian_noise", "blur")
        every = {("clean", 0), *((kind, severity) for kind in kinds for severity in (1, 4))}
        assert shown[:2] == [every, every]  # these at every severity, the others at the middle one
        assert all(own == {v for v in every if v[1] in (0, 4)} for own in shown[2:])


def test_adversarial_images_mislead(output):
    for trainer in ("CoOp", "ANPrompt"):
        part = content(run_folder(output, trainer))["parts"]["base"]
        rule = part["headline_rule"]
        attacked = part["cells"]["adversarial/pgd/4/1"][rule]["accuracy"]
        assert attacked <= part["clean"][rule]["accuracy"]
        assert attacked < 100


def test_a_method_without_tokens_has_no_noise_on_them(output):
    parts = content(run_folder(output, "ZeroshotCLIP"))["parts"]
    assert not any(key.startswith("learned") for key in parts["base"]["cells"])
    learning = content(run_folder(output, "MaPLe"))["parts"]["base"]["cells"]
    assert "learned/tokens/4/1" in learning


# What was seen in training ---------------------------------------------------------------------


def test_headline_leaves_out_what_training_met(output):
    header = content(run_folder(output, "ANPrompt"))
    assert header["noise_in_training"] == {
        "text_kinds": ["char", "word", "template"],
        "image_kinds": [],
        "seeds": [0],
    }
    summary = header["parts"]["base"]["summary"]
    assert summary["unseen_in_training"]["text"]["kinds"] == ["embed"]
    assert summary["all"]["text"]["kinds"] == ["char", "embed"]
    folders = [run_folder(output, trainer) for trainer in ("CoOp", "ANPrompt")]
    evaluations = [e for folder in folders for e in read_evaluations(folder)]
    for comparison in compare(evaluations):
        for row in comparison.rows:  # the same kinds for all, also for those that saw none
            assert row.kinds("text") == ["embed"]
            assert all("char" not in kind for kind in row.kinds("both"))
    alone = compare([e for e in evaluations if e.header["trainer"] == "CoOp"])
    assert alone[0].rows[0].kinds("text") == ["char", "embed"]


def test_seed_of_training_is_left_out_of_text_noise_only(output):
    evaluation = read_evaluations(run_folder(output, "ANPrompt"))[0]
    seen = {"text_kinds": [], "image_kinds": [], "seeds": [1]}
    assert seen_by_any([{"noise_in_training": seen}]) == seen
    groups = by_group(evaluation.cells(), unseen_in_training(seen))
    assert "image" in groups and "text" not in groups and "both" not in groups


def test_means_give_kinds_the_same_weight(output):
    evaluation = read_evaluations(run_folder(output, "ANPrompt"))[0]
    cells = [c for c in evaluation.cells() if c.group == "image"]
    one_less = [c for c in cells if (c.kind, c.severity) != ("blur", 4)]
    by_kind = {
        kind: np.mean([c.figures["accuracy"] for c in one_less if c.kind == kind])
        for kind in ("gaussian_noise", "blur")
    }
    expected = pytest.approx(np.mean(list(by_kind.values())))
    assert mean_over_cells(one_less, "accuracy") == expected
    assert evaluation.under(one_less).number == expected


# Going on --------------------------------------------------------------------------------------


def test_more_kinds_leave_what_is_there_alone(fresh, capsys, monkeypatch):
    folder = run_folder(fresh, "CoOp")
    few = ["--noise", "char,blur", "--severities", "1", "--seeds", "1", "--images", "10"]
    assert call(capsys, "--model-dir", folder, *few)[0] == 0
    before = content(folder)["parts"]["base"]["cells"]
    added = []
    original = Results.add
    monkeypatch.setattr(
        Results, "add", lambda s, new: (added.extend(c.key for c in new), original(s, new))
    )
    more = ["--noise", "char,blur", "--severities", "1,5", "--seeds", "1", "--images", "10"]
    assert call(capsys, "--model-dir", folder, *more)[0] == 0
    after = content(folder)["parts"]["base"]["cells"]
    assert set(after) == {*before, "text/char/5/1", "image/blur/5/-"}
    assert {key: after[key] for key in before} == before
    assert not set(added) & set(before)
    added.clear()
    stamp = (folder / "robustness.json").stat().st_mtime_ns
    assert call(capsys, "--model-dir", folder, *more)[0] == 0
    assert not added and (folder / "robustness.json").stat().st_mtime_ns == stamp


def test_stopped_and_taken_up_equals_undisturbed(output, fresh, capsys, monkeypatch):
    folder = run_folder(fresh, "ANPrompt")
    original, calls = Store.save, []

    def save(store):
        original(store)
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "save", save)
        status, _, err = call(capsys, "--model-dir", folder, *SMALL)
    assert status == 130 and "goes on from here" in err
    half = content(folder)["parts"]["base"]["cells"]
    whole = content(run_folder(output, "ANPrompt"))["parts"]["base"]["cells"]
    assert 0 < len(half) < len(whole)
    assert call(capsys, "--model-dir", folder, *SMALL)[0] == 0
    for part, expected in content(run_folder(output, "ANPrompt"))["parts"].items():
        found = content(folder)["parts"][part]
        assert list(found["cells"]) == list(expected["cells"])
        assert found["summary"].keys() == expected["summary"].keys()
        for key, rules in expected["cells"].items():
            for rule, figures in rules.items():
                assert found["cells"][key][rule] == pytest.approx(figures, abs=1e-3)


def test_a_model_trained_anew_starts_over(fresh, capsys):
    folder = run_folder(fresh, "CoOp")
    few = ["--noise", "blur", "--severities", "1", "--images", "10", "--classes", "base"]
    assert call(capsys, "--model-dir", folder, *few)[0] == 0
    path = folder / "prompt_learner/model.pth.tar-2"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"]["ctx"] += 1
    save_checkpoint(checkpoint, str(path.parent))
    marked = content(folder)
    marked["parts"]["base"]["cells"]["image/blur/1/-"]["class"]["accuracy"] = 99.9
    (folder / "robustness.json").write_text(json.dumps(marked))
    status, out, _ = call(capsys, "--model-dir", folder, *few)
    assert status == 0 and "starting over" in out
    assert content(folder)["parts"]["base"]["cells"]["image/blur/1/-"]["class"]["accuracy"] != 99.9


def test_redo_leaves_other_classes_alone(fresh, capsys):
    folder = run_folder(fresh, "CoOp")
    few = ["--severities", "1", "--seeds", "1", "--images", "10", "--model-dir", folder]
    assert call(capsys, *few, "--noise", "blur,jpeg")[0] == 0
    before = content(folder)["parts"]
    assert call(capsys, *few, "--noise", "jpeg", "--classes", "base", "--redo")[0] == 0
    after = content(folder)["parts"]
    assert list(after["base"]["cells"]) == ["image/jpeg/1/-"]
    assert after["new"] == before["new"]


def test_settings_of_a_newer_version_make_no_other_model(fresh, capsys):
    folder = run_folder(fresh, "CoOp")
    few = ["--severities", "1", "--seeds", "1", "--images", "10", "--noise", "jpeg"]
    settings = folder / "config.yaml"
    lines = settings.read_text().splitlines(keepends=True)
    older = [line for line in lines if "CLASSES_AT_ONCE" not in line]
    assert len(older) == len(lines) - 1
    settings.write_text("".join(older))
    assert call(capsys, "--model-dir", folder, *few)[0] == 0
    before = content(folder)
    settings.write_text("".join(older))
    status, printed, _ = call(capsys, "--model-dir", folder, *few)
    assert status == 0 and "starting over" not in printed
    assert content(folder)["fingerprint"] == before["fingerprint"]
    checkpoint = next((folder / "prompt_learner").glob("model.pth.tar-*"))
    assert fingerprint(folder, checkpoint) == before["fingerprint"]
    (folder / "results.json").unlink()  # repeats the settings
    settings.write_text("".join(older).replace("N_CTX: ", "N_CTX: 1"))
    assert fingerprint(folder, checkpoint) != before["fingerprint"]


def test_figures_of_a_model_that_was_trained_anew_are_refused(fresh, capsys):
    folder = run_folder(fresh, "CoOp")
    few = ["--severities", "1", "--seeds", "1", "--images", "10", "--noise", "jpeg"]
    assert call(capsys, "--model-dir", folder, *few)[0] == 0
    checkpoint = next((folder / "prompt_learner").glob("model.pth.tar-*"))
    before = checkpoint.read_bytes()
    assert read_evaluations(folder)
    checkpoint.write_bytes(before + b" ")
    os.utime(checkpoint, (1, 1))
    with pytest.raises(UsageError, match="has figures of another model than .*model.pth.tar-"):
        read_evaluations(folder)
    checkpoint.unlink()  # nothing to compare with
    assert read_evaluations(folder)


def test_unlike_models_are_no_seeds_of_one(output, tmp_path, capsys):
    """Copies of a run in folders that say nothing: the same model twice, and one of all classes."""
    source = run_folder(output, "CoOp")
    for name in ("a", "b"):
        shutil.copytree(source, tmp_path / name)
    evaluations = [e for name in ("a", "b") for e in read_evaluations(tmp_path / name)]
    with pytest.raises(ValueError, match="are the same method, data set and seed"):
        compare(evaluations)
    path = tmp_path / "b/robustness.json"
    path.write_text(json.dumps(content(tmp_path / "b") | {"trained_on": "all"}))
    evaluations = [e for name in ("a", "b") for e in read_evaluations(tmp_path / name)]
    names = {row.method.name for comparison in compare(evaluations) for row in comparison.rows}
    assert len(names) == 2 and any("trained on all classes" in name for name in names)


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_shared_words_have_the_same_noise_in_every_method(severity):
    names = ["red apple", "green leaf", "highway or road"]
    char = Cell("text", "char", severity, 1)
    whole = noisy_prompts("a photo of a {}.", names, char)
    bare = noisy_prompts("{}", names, char)
    some = noisy_prompts("of a {}", names, char)
    for long, short, middle in zip(whole, bare, some, strict=True):
        assert long.endswith(f" {short}.") and long.endswith(f" {middle}.")
    assert severity < 5 or whole != [f"a photo of a {name}." for name in names]
    template = Cell("text", "template", severity, 1)
    phrasings = noisy_prompts("a photo of a {}.", names, template)
    others = noisy_prompts("a centered satellite photo of {}.", names, template)
    pairs = zip(phrasings, others, names, strict=True)
    replaced = [(a, b) for a, b, name in pairs if a != f"a photo of a {name}."]
    assert all(a == b for a, b in replaced)
    assert severity < 5 or len(replaced) == len(names)


def test_common_cells_are_compared(output, fresh, capsys):
    folder = run_folder(fresh, "CoOp")
    few = ["--noise", "blur", "--severities", "1", "--images", "20", "--seeds", "1"]
    assert call(capsys, "--model-dir", folder, *few)[0] == 0
    evaluations = read_evaluations(folder) + read_evaluations(run_folder(output, "MaPLe"))
    base = [e for e in evaluations if e.subset == "base"]
    assert {k for k in common_keys(base) if k.startswith("image")} == {"image/blur/1/-"}
    comparison = compare(base)[0]
    assert comparison.left_out > 0
    assert all(row.kinds("image") == ["blur"] for row in comparison.rows)


# The table -------------------------------------------------------------------------------------


def test_table_names_every_method_and_what_is_left_out(output, capsys):
    status, out, err = call(capsys, "--model-dir", output, *SMALL)
    assert status == 0
    for name in ("ZeroshotCLIP", "CoOp", "MaPLe", "ANPrompt"):
        assert out.count(name) >= 4  # two tables for each of two parts
    assert "EuroSAT, base classes, 20 images" in out and "EuroSAT, new classes" in out
    assert "met it in training: char, word, template (noise seed 0)" in out
    part = content(run_folder(output, "CoOp"))["parts"]["base"]
    line = next(line for line in out.splitlines() if line.startswith("CoOp"))
    assert f"{part['clean']['class']['accuracy']:.1f}" in line.split()


# Refusals --------------------------------------------------------------------------------------


def refused(capsys, *arguments) -> str:
    status, _, err = call(capsys, *arguments)
    assert status == 2
    assert len(err.strip().splitlines()) == 1, err
    return err


def test_bad_input_is_one_line_and_leaves_results_alone(output, capsys):
    folder = run_folder(output, "CoOp")
    before = (folder / "robustness.json").read_bytes()
    for arguments, message in [
        (["--noise", "blurr"], "Did you mean blur"),
        (["--severities", "6"], "--severities 6: there is no such severity"),
        (["--severities", "0-2"], "give 1 to 5"),
        (["--seeds", "x"], "whole numbers"),
        (["--images", "0"], "give 1 or more"),
        (["--images", "15", "--noise", "blur"], "--redo"),
        (["--classes", "old"], "choose from"),
        (["--noise", "description"], "--descriptions"),
        (["--descriptions", output / "none.json"], "none.json"),
        (["--load-epoch", "7"], "model.pth.tar-7"),
        (["--root", output / "nowhere"], "nowhere"),
        (["--noise", "autoattack", "--images", "20"], "pyautoattack"),
        (["--plugin", "none.py"], "none.py"),
        (["--nois", "x", "--wrong"], "--wrong"),
    ]:
        if "autoattack" in arguments:
            try:
                import pyautoattack  # noqa: F401

                continue
            except ImportError:
                pass
        assert message in refused(capsys, "--model-dir", folder, *arguments), arguments
    assert (folder / "robustness.json").read_bytes() == before


HOLD = """
import sys
from common.lock import FolderLock
from anprompt.robustness.prepare import ROBUSTNESS_LOCK
lock = FolderLock(sys.argv[1], ROBUSTNESS_LOCK)
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_two_evaluations_of_one_run_are_not_mixed(fresh, capsys):
    """Each writes its file as a whole; the later would drop what the earlier measured."""
    folder = run_folder(fresh, "CoOp")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout.readline() == "held\n"
        assert "in use by another process" in refused(capsys, "--model-dir", folder, *SMALL)
        other.communicate("")
    assert not (folder / "robustness.json").exists()
    assert main(["robustness", "--model-dir", str(folder), "--noise", "blur", "--images", "4"]) == 0


def test_another_backbones_file_is_noticed_for_every_run(fresh, capsys):
    """Runs share a loaded backbone only if it was the same file for both."""
    folders = [run_folder(fresh, name) for name in ("CoOp", "MaPLe")]
    settings = folders[1] / "config.yaml"
    changed = re.sub(r"(WEIGHTS: '?)\w{16}", r"\g<1>" + "f" * 16, settings.read_text())
    assert changed != settings.read_text()
    settings.write_text(changed)
    assert "other weights" in refused(capsys, "--model-dir", *folders, *SMALL)


def test_runs_that_are_none_or_not_alike_are_refused(output, fresh, tmp_path, capsys):
    folder = run_folder(fresh, "CoOp")
    assert "no such folder" in refused(capsys, "--model-dir", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no trained model" in refused(capsys, "--model-dir", tmp_path / "empty")
    # another half of the classes
    assert "different class sets" in refused(
        capsys, "--model-dir", folder, run_folder(fresh, "ZeroshotCLIP", "test_new")
    )
    # another data set
    other = run_folder(fresh, "MaPLe")
    text = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(text.replace("NAME: EuroSAT", "NAME: DescribableTextures"))
    assert "different class sets" in refused(capsys, "--model-dir", folder, other)
    # no checkpoint
    shutil.rmtree(folder / "prompt_learner")
    assert "no checkpoint" in refused(capsys, "--model-dir", folder)
    assert not list(fresh.rglob("robustness.json"))


def test_a_class_without_description_is_named(fresh, tmp_path, capsys):
    path = tmp_path / "descriptions.json"
    path.write_text(json.dumps({"River": ["Water between banks."]}))
    folder = run_folder(fresh, "CoOp")
    arguments = ["--noise", "description", "--descriptions", path]
    assert "no entry for class" in refused(capsys, "--model-dir", folder, *arguments)


# AutoAttack ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "classes", "parts"),
    [
        ("autoattack", 4, ["apgd-ce", "apgd-t", "fab-t", "square"]),  # its standard version
        ("autoattack", 3, ["apgd-ce", "apgd-dlr", "fab", "square"]),  # DLR ranks three classes,
        ("autoattack", 2, ["apgd-ce", "fab", "square"]),  # its targeted one four
        ("apgd", 10, ["apgd-ce", "apgd-t"]),
        ("apgd", 2, ["apgd-ce"]),
        ("square", 2, ["square"]),
    ],
)
def test_parts_of_autoattack(kind, classes, parts):
    assert parts_of_autoattack(kind, classes) == parts


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("kind", ["autoattack", "apgd"])
def test_autoattack_stays_in_the_ball_and_misleads(kind, classes):
    pytest.importorskip("pyautoattack", reason="pyautoattack is not installed")
    torch.manual_seed(0)
    weights = torch.randn(3 * 8 * 8, classes)
    images = torch.rand(6, 3, 8, 8)
    labels = (images.flatten(1) @ weights).argmax(dim=1)
    state = torch.get_rng_state()
    changed = autoattack(lambda x: x.flatten(1) @ weights, kind, images, labels, 0.2, 1, classes)
    assert torch.equal(torch.get_rng_state(), state)
    assert (changed - images).abs().max() <= 0.2 + 1e-6
    assert ((changed.flatten(1) @ weights).argmax(dim=1) != labels).all()
