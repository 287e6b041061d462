"""Attacks from the command line: how many images, what is kept, how tables show it."""

import json
import re
import shutil
import sys

import pytest
from called import robustness, table
from PIL import Image
from runs_of_tests import run_folder

from anprompt.robustness import attacks, evaluation, prepare
from anprompt.runs.trained import read_cfg

pytestmark = pytest.mark.slow


@pytest.fixture
def run(trained_output, tmp_path):
    shutil.copytree(trained_output, tmp_path / "output")
    return run_folder(tmp_path / "output", "CoOp")


def attack(run, *flags):
    return robustness(["--model-dir", run, "--images", "10", "--classes", "new", *flags])


def part(run):
    return json.loads((run / "robustness.json").read_text())["parts"]["new"]


def test_some_images_are_attacked_and_their_answers_kept(run, capsys, monkeypatch):
    flags = ("--noise", "pgd2", "--eps", "1,8", "--attack-images", "5", "--batch-size", "3")
    made = []
    original = evaluation.attacked

    def counted(target, kind, bound, pictures, labels, **more):
        made.append((bound, len(pictures)))
        if len(made) == 4:
            raise KeyboardInterrupt
        return original(target, kind, bound, pictures, labels, **more)

    monkeypatch.setattr(evaluation, "attacked", counted)
    assert attack(run, *flags) == 130  # interrupted in the second attack's second batch
    assert made == [(1, 3), (1, 2), (8, 3), (8, 2)]
    printed = capsys.readouterr()
    assert "pgd2 1/255: 5 images in" in printed.out and "images a second" in printed.out
    del made[:]
    assert attack(run, *flags) == 0  # what was done is not done again
    assert made == [(8, 2)]
    capsys.readouterr()
    cells = part(run)["cells"]
    assert set(cells) == {"adversarial/pgd2/1/1", "adversarial/pgd2/8/1"}
    assert part(run)["attacked"]["used"] == 5 and part(run)["images"]["used"] == 10
    kept = json.loads((run / "robustness_attacks.json").read_text())["parts"]["new"]
    assert {len(images) for images in kept.values()} == {5}
    before = (run / "robustness.json").read_bytes()
    assert attack(run, *flags) == 0
    assert made == [(8, 2)] and (run / "robustness.json").read_bytes() == before


def test_progress_is_shown_within_a_batch(run, monkeypatch):
    """AutoAttack needs minutes for a batch on a CPU."""
    shown = []

    class Bar(evaluation.tqdm):
        def set_postfix(self, **known):
            shown.append(known["passes"])

    monkeypatch.setattr(evaluation, "tqdm", Bar)
    assert attack(run, "--noise", "pgd10", "--eps", "1", "--batch-size", "6") == 0
    assert shown == list(range(1, 21))  # two batches, a pass for each step


def test_the_same_in_one_go_and_in_other_batches(run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    for folder, size in ((run, "2"), (other, "10")):
        flags = ("--noise", "pgd2", "--eps", "4", "--batch-size", size)
        assert attack(folder, *flags) == 0
    first, second = (part(folder)["cells"]["adversarial/pgd2/4/1"] for folder in (run, other))
    assert first["class"]["accuracy"] == second["class"]["accuracy"]
    assert first["class"]["brier"] == pytest.approx(second["class"]["brier"], abs=1e-3)


def test_presets_and_checks_reach_the_tables(run, capsys, monkeypatch):
    original = evaluation.attacked

    def shortened(target, kind, *rest, **more):
        return original(target, "pgd2", *rest, **more)

    monkeypatch.setattr(evaluation, "attacked", shortened)
    monkeypatch.setattr(evaluation, "check_attack", lambda kind, classes: None)
    assert attack(run, "--noise", "eps1,pgd2,transfer", "--eps", "1") == 0
    out = capsys.readouterr().out
    assert "pgd100 1/255" in out and "transfer 1/255" in out
    assert "masked gradients, CoOp" in out and "not checked (--noise masking)" in out
    assert table([run.parents[6], "--robust", "eps1"]) == 0
    out = capsys.readouterr().out
    assert "new, robust" in out and "base, robust" not in out
    assert "10 of 50 images" in out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--attack-images", "0"], "--attack-images 0: give 1 or more"),
        (["--noise", "pgd2", "--eps", "0"], "--eps 0: give 1 to 255"),
        (["--noise", "eps2"], "Did you mean eps"),
    ],
)
def test_bad_flags_are_one_line(run, flags, said, capsys):
    assert attack(run, *flags) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1
    assert not (run / "robustness.json").exists()


def test_another_number_of_attacked_images_is_refused(run, capsys):
    flags = ("--noise", "pgd2", "--eps", "1")
    assert attack(run, *flags, "--attack-images", "4") == 0
    before = (run / "robustness.json").read_bytes()
    assert attack(run, "--noise", "pgd2", "--eps", "2", "--attack-images", "5") == 2
    assert "--attack-images" in capsys.readouterr().err
    assert (run / "robustness.json").read_bytes() == before


@pytest.mark.parametrize("noise", ["pgd2", "worst-text"])
def test_another_start_is_refused(noise, run, capsys):
    """Figures of two starts were averaged in tables, and checks took the last."""
    flags = ("--noise", noise, "--eps", "1")
    assert attack(run, *flags, "--seeds", "4-4") == 0
    before = (run / "robustness.json").read_bytes()
    assert attack(run, *flags, "--seeds", "7,4") == 2
    error = capsys.readouterr().err
    assert "started from noise seed 4, not 7. Name the same seed first in --seeds" in error
    assert (run / "robustness.json").read_bytes() == before
    assert attack(run, "--noise", "gaussian_noise", "--severities", "1", "--seeds", "7,4") == 0
    assert attack(run, *flags, "--seeds", "4,7") == 0
    assert attack(run, *flags, "--seeds", "7,4", "--redo") == 0
    (key,) = part(run)["cells"]
    assert key.endswith("/1/7")


def test_drops_are_from_the_clean_accuracy_on_the_images_attacked(run):
    assert attack(run, "--noise", "pgd2", "--eps", "4", "--attack-images", "4") == 0
    content = part(run)
    rule = content["headline_rule"]
    under = content["cells"]["adversarial/pgd2/4/1"][rule]["accuracy"]
    expected = content["attacked"]["clean"][rule]["accuracy"] - under
    assert content["summary"]["all"]["pgd2 4/255"]["drop"] == pytest.approx(expected)


def test_figures_of_another_epoch_are_not_thrown_away(run, capsys):
    last = next((run / "prompt_learner").glob("model.pth.tar-*"))
    flags = ("--noise", "jpeg", "--severities", "1", "--seeds", "1")
    assert attack(run, *flags) == 0
    path, first = run / "robustness.json", "prompt_learner/model.pth.tar-1"
    shutil.copy(last, run / first)
    content = json.loads(path.read_text()) | {"checkpoint": first, "fingerprint": "another"}
    path.write_text(json.dumps(content))
    before = path.read_bytes()
    assert attack(run, *flags) == 2
    error = capsys.readouterr().err
    assert f"has figures of {first}, not of prompt_learner/{last.name}: give --load-epoch" in error
    assert path.read_bytes() == before
    (run / first).unlink()  # trained anew
    assert attack(run, *flags) == 0
    assert json.loads(path.read_text())["checkpoint"] == f"prompt_learner/{last.name}"


def test_redo_of_another_epoch_drops_no_other_classes_unasked(run, capsys):
    """The new classes' figures were gone, as if the model had been trained anew."""
    last = next((run / "prompt_learner").glob("model.pth.tar-*"))
    flags = ("--noise", "jpeg", "--severities", "1", "--seeds", "1", "--classes")
    assert attack(run, *flags, "base,new") == 0
    path, first = run / "robustness.json", "prompt_learner/model.pth.tar-1"
    shutil.copy(last, run / first)
    content = json.loads(path.read_text()) | {"checkpoint": first, "fingerprint": "another"}
    path.write_text(json.dumps(content))
    before = path.read_bytes()
    assert attack(run, *flags, "base", "--redo") == 2
    error = capsys.readouterr().err
    assert "--load-epoch as before, or --redo --classes base,new to begin anew" in error
    assert path.read_bytes() == before
    assert attack(run, *flags, "base,new", "--redo") == 0
    told = f"figures on its base, new classes are of {first}, not of prompt_learner/{last.name}"
    assert told in capsys.readouterr().out
    after = json.loads(path.read_text())
    assert after["checkpoint"] == f"prompt_learner/{last.name}"
    path.write_text(json.dumps(after | {"fingerprint": "another"}))
    assert attack(run, *flags, "base", "--redo") == 0  # trained anew: nothing is left to keep
    told = "figures on its base, new classes are of another model than the run has now"
    assert told in capsys.readouterr().out
    assert list(json.loads(path.read_text())["parts"]) == ["base"]


def test_redo_forgets_attacks_for_good(run, monkeypatch):
    flags = ("--noise", "pgd2", "--eps", "1")
    assert attack(run, *flags) == 0
    assert attack(run, "--noise", "jpeg", "--severities", "1", "--seeds", "1", "--redo") == 0
    made = []
    original = evaluation.attacked
    monkeypatch.setattr(evaluation, "attacked", lambda *a, **m: made.append(1) or original(*a, **m))
    assert attack(run, *flags) == 0 and made


def test_an_interrupted_attack_on_some_images_leaves_no_count(run, monkeypatch):
    flags = ("--noise", "pgd2", "--eps", "1")

    def stops(*args, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "attacked", stops)
        assert attack(run, *flags, "--attack-images", "4") == 130
    assert attack(run, *flags) == 0
    assert "attacked" not in part(run)
    assert attack(run, "--noise", "pgd2", "--eps", "2") == 0


def test_models_are_attacked_in_full_precision(run, monkeypatch):
    asked = []
    original = prepare.load_backbone

    def noted(cfg):
        asked.append(cfg.TRAINER.COOP.PREC)
        return original(cfg)

    monkeypatch.setattr(prepare, "load_backbone", noted)
    for noise in ("jpeg", "pgd2"):
        flags = ("--noise", noise, "--severities", "1", "--seeds", "1", "--eps", "1")
        assert attack(run, *flags, "--redo") == 0
    assert asked == ["fp16", "fp32"]


def test_test_images_are_shared_by_runs_on_the_same_data_alone(run):
    cfg = read_cfg(run)
    other = cfg.clone()
    other.DATASET.NUM_SHOTS += 1
    assert prepare._data(cfg) == prepare._data(other)
    other.DATASET.VAL_PERCENT += 0.1
    assert prepare._data(cfg) != prepare._data(other)


def replaced(fake_eurosat, folder) -> None:
    """The same names with grey pictures."""
    shutil.copytree(fake_eurosat, folder)
    for path in (folder / "eurosat/2750").rglob("*.*"):
        Image.new("RGB", (64, 64), "grey").save(path)


@pytest.mark.parametrize("is_of_before", [False, True])
def test_answers_to_other_pictures_are_not_taken(is_of_before, run, fake_eurosat, tmp_path):
    """Where robustness.json is removed, as its own message says, the answers beside it stayed."""
    flags = ("--noise", "pgd2", "--eps", "1")
    assert attack(run, *flags) == 0
    first = part(run)
    kept = run / "robustness_attacks.json"
    if is_of_before:
        content = json.loads(kept.read_text())
        del content["of"]
        kept.write_text(json.dumps(content))
    replaced(fake_eurosat, tmp_path / "grey")
    before = kept.read_bytes()
    assert attack(run, *flags, "--root", tmp_path / "grey") == 2 and kept.read_bytes() == before
    (run / "robustness.json").unlink()
    assert attack(run, *flags, "--root", tmp_path / "grey") == 0
    grey = part(run)
    (clean,) = grey["clean"].values()
    (own,) = grey["cells"]["adversarial/pgd2/1/1"].values()
    assert clean != first["clean"]["class"]
    assert own["accuracy"] <= clean["accuracy"] and own != first["cells"]["adversarial/pgd2/1/1"]
    assert json.loads(kept.read_text())["of"]["new"]["data"] == grey["data"]


def test_answers_to_the_same_pictures_are_taken_again(run, monkeypatch):
    flags = ("--noise", "pgd2", "--eps", "1")
    assert attack(run, *flags) == 0
    first = part(run)["cells"]
    (run / "robustness.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "attacked", None)  # nothing is attacked
        assert attack(run, *flags) == 0
    assert part(run)["cells"] == first


@pytest.mark.parametrize(
    "entry",
    [
        {"class": [1.0, 0.5]}, {"mix": [1.0, 0.5, 0.5]}, {}, {"class": [1.0]},
        {"class": [1.0, 500.0, 0.5]}, {"class": [99.0, 0.5, 0.5]}, {"class": [0.5, 0.5, 0.5]},
    ],
)  # fmt: skip
def test_damaged_answers_are_made_anew(entry, run, capsys):
    flags = ("--noise", "pgd2", "--eps", "1")
    assert attack(run, *flags) == 0
    first = part(run)["cells"]
    kept = run / "robustness_attacks.json"
    content = json.loads(kept.read_text())
    images = content["parts"]["new"]["adversarial/pgd2/1/1"]
    images[next(iter(images))] = entry
    kept.write_text(json.dumps(content))
    (run / "robustness.json").unlink()
    capsys.readouterr()
    assert attack(run, *flags) == 0
    assert "1 of 10 entries of adversarial/pgd2/1/1 are damaged" in capsys.readouterr().out
    (again,), (before,) = (c["adversarial/pgd2/1/1"].values() for c in (part(run)["cells"], first))
    assert again == pytest.approx(before, rel=1e-4)


def test_figures_in_two_precisions_are_not_mixed(run, monkeypatch, capsys):
    monkeypatch.setattr(prepare, "_precision", lambda cfg: cfg.TRAINER.COOP.PREC)
    few = ("--severities", "1", "--seeds", "1", "--eps", "1")
    assert attack(run, "--noise", "jpeg", *few) == 0
    assert attack(run, "--noise", "pgd2", *few) == 0  # of its own precision
    assert part(run)["precision"] == "fp16"
    capsys.readouterr()
    assert attack(run, "--noise", "blur,pgd10", *few) == 2
    err = capsys.readouterr().err
    assert "were evaluated in fp16, not in fp32" in err and "(--noise eps1), or pass --redo" in err
    assert attack(run, "--noise", "blur", *few) == 0


def test_attacks_first_and_other_noise_then_say_how_to_go_on(run, monkeypatch, capsys):
    monkeypatch.setattr(prepare, "_precision", lambda cfg: cfg.TRAINER.COOP.PREC)
    few = ("--severities", "1", "--seeds", "1", "--eps", "1")
    assert attack(run, "--noise", "pgd2", *few) == 0
    capsys.readouterr()
    assert attack(run, "--noise", "jpeg", *few) == 2
    err = capsys.readouterr().err
    assert "in fp32, not in fp16" in err and "Name an attack beside the noise" in err
    assert attack(run, "--noise", "jpeg,pgd2", *few) == 0
    assert part(run)["precision"] == "fp32"
    monkeypatch.setattr(prepare, "_precision", lambda cfg: "bf16")
    capsys.readouterr()
    (run / "robustness_attacks.json").unlink()
    content = json.loads((run / "robustness.json").read_text())
    for own in content["parts"].values():
        own["cells"] = {key: of for key, of in own["cells"].items() if "pgd" not in key}
    (run / "robustness.json").write_text(json.dumps(content))
    assert attack(run, "--noise", "blur", *few) == 2
    assert ". Pass --redo to begin anew" in capsys.readouterr().err


def test_square_by_name_is_not_left_out_in_silence(run, monkeypatch, capsys):
    monkeypatch.setattr(prepare, "has_autoattack", lambda: False)
    monkeypatch.setattr(attacks, "has_autoattack", lambda: False)
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    assert attack(run, "--noise", "pgd2,square", "--eps", "1") == 2
    assert "pyautoattack" in capsys.readouterr().err
    assert attack(run, "--noise", "masking", "--eps", "1", "--attack-images", "2") == 0
    assert not any("square" in key for key in part(run)["cells"])


def test_runs_that_tables_cannot_tell_apart_are_refused_before_any_attack(run, tmp_path, capsys):
    shutil.copytree(run.parents[5], tmp_path / "again")
    other = tmp_path / "again" / run.relative_to(run.parents[5])
    flags = ["--noise", "pgd2", "--eps", "1", "--images", "10", "--classes", "new"]
    assert robustness(["--model-dir", run, other, *flags]) == 2
    assert "are the same method, data set and seed" in capsys.readouterr().err
    assert not (run / "robustness.json").exists() and not (other / "robustness.json").exists()


def test_transferred_images_are_made_with_the_runs_own_prompt(run, monkeypatch):
    other = run_folder(run.parents[6], "MaPLe")
    for name in ("config.yaml", "results.json"):
        text = (other / name).read_text()
        assert re.search(r'"?TEMPLATE"?: ""|TEMPLATE: \'\'', text), text
        text = re.sub(r'("?TEMPLATE"?): (""|\'\')', r'\1: "an aerial view of {}."', text, count=1)
        (other / name).write_text(text)
    made, original = [], prepare.zero_shot
    monkeypatch.setattr(
        prepare, "zero_shot", lambda of: made.append(of.folder.parents[1].name) or original(of)
    )
    flags = ["--noise", "transfer", "--eps", "1", "--images", "4", "--classes", "new"]
    assert robustness(["--model-dir", run, other, *flags]) == 0
    assert made == ["CoOp", "MaPLe"]
