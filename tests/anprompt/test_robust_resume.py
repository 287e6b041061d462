"""An evaluation goes on from what is there, and starts over where the model is another."""

import itertools
import json
import os
import shutil

import pytest
import torch
from evaluated_runs import SMALL, call, content
from runs_of_tests import run_folder

from anprompt.results.noise.compare import compare
from anprompt.results.noise.files import read_evaluations
from anprompt.results.noise.tables import noise_tables
from anprompt.robustness.store import Results, Store
from anprompt.runs.fingerprint import fingerprint
from common.errors import UsageError
from dassl.utils import save_checkpoint

pytestmark = pytest.mark.slow


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


def test_stopped_and_taken_up_equals_undisturbed(evaluated_output, fresh, capsys, monkeypatch):
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
    whole = content(run_folder(evaluated_output, "ANPrompt"))["parts"]["base"]["cells"]
    assert 0 < len(half) < len(whole)
    assert call(capsys, "--model-dir", folder, *SMALL)[0] == 0
    for part, expected in content(run_folder(evaluated_output, "ANPrompt"))["parts"].items():
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


def test_figures_of_another_epoch_are_told_apart(fresh, tmp_path, capsys):
    """Epoch 1 of one seed was averaged with the last epoch of another."""
    folder = run_folder(fresh, "CoOp")
    few = ["--severities", "1", "--seeds", "1", "--images", "10", "--noise", "jpeg"]
    assert call(capsys, "--model-dir", folder, *few)[0] == 0
    other = tmp_path / "other" / folder.relative_to(fresh).parent / "seed2"
    shutil.copytree(folder, other)
    known = content(other)
    del known["fingerprint"]
    known |= {"seed": 2, "checkpoint": "prompt_learner/model.pth.tar-97"}
    (other / "robustness.json").write_text(json.dumps(known))
    tables = [table for part in compare(read_evaluations(other)) for table in noise_tables(part)]
    notes = [note for table in tables for note in table.notes]
    assert "CoOp: of model.pth.tar-97, not of the checkpoint that tests read" in notes
    with pytest.raises(UsageError, match="the checkpoint is 'model.pth.tar-.*'model.pth.tar-97'"):
        compare([*read_evaluations(folder), *read_evaluations(other)])


def test_images_of_another_content_are_refused(fresh, fake_eurosat, tmp_path, capsys):
    """Names alone let the clean figures stand for pictures that were no longer there."""
    data = tmp_path / "data"
    shutil.copytree(fake_eurosat, data)
    folder = run_folder(fresh, "CoOp")
    here = ["--model-dir", folder, "--root", data, "--severities", "1", "--seeds", "1"]
    assert call(capsys, *here, "--noise", "char")[0] == 0
    known = content(folder)["parts"]["base"]
    assert set(known["data"]) == {"test", "test_files"}
    read = json.loads((folder / "results.json").read_text())["identity"]["data"]
    assert known["data"] == {key: read[key] for key in known["data"]}
    before = (folder / "robustness.json").read_bytes()

    pictures = [path for path in (data / "eurosat/2750").rglob("*") if path.is_file()]
    for path in pictures:
        path.write_bytes(path.read_bytes() + b" ")
    assert pictures
    status, _, err = call(capsys, *here, "--noise", "gaussian_noise")
    assert status == 2 and "other images: the digest of the files of test images was" in err
    assert (folder / "robustness.json").read_bytes() == before
    assert call(capsys, *here, "--noise", "gaussian_noise", "--redo")[0] == 0
    assert content(folder)["parts"]["base"]["data"] != known["data"]

    with pytest.raises(UsageError, match="cannot be compared: the digest of the files of test"):
        other = tmp_path / "other" / "base2new/train_base/eurosat/shots_1/MaPLe/x/seed1"
        shutil.copytree(run_folder(fresh, "MaPLe"), other)
        assert call(capsys, "--model-dir", other, *here[2:4], "--noise", "char")[0] == 0
        part = content(other)
        part["parts"]["base"]["data"]["test_files"] = "0" * 64
        (other / "robustness.json").write_text(json.dumps(part))
        compare([*read_evaluations(other), *read_evaluations(folder)])


def test_a_file_of_before_goes_on_without_digests(fresh, capsys):
    folder = run_folder(fresh, "CoOp")
    few = ["--model-dir", folder, "--severities", "1", "--seeds", "1", "--images", "10"]
    assert call(capsys, *few, "--noise", "char")[0] == 0
    old = content(folder)
    for part in old["parts"].values():
        del part["data"]
    (folder / "robustness.json").write_text(json.dumps(old))
    assert call(capsys, *few, "--noise", "blur")[0] == 0
    assert all("data" not in part for part in content(folder)["parts"].values())


def test_figures_of_two_copies_of_imagenet_c_do_not_mix(fresh, fake_eurosat, tmp_path, capsys):
    released = tmp_path / "released"
    pictures = [path for path in (fake_eurosat / "eurosat/2750").rglob("*") if path.is_file()]
    for kind, path in itertools.product(("fog", "snow"), pictures):
        copy = released / kind / "1" / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    folder, other = run_folder(fresh, "CoOp"), run_folder(fresh, "MaPLe")

    def measured(folder, noise, *more):
        disk = ["--noise", f"imagenet-c-disk:{noise}", "--severities", "1", "--released", released]
        return call(capsys, "--model-dir", folder, *disk, *more)

    assert measured(folder, "fog")[0] == 0
    assert measured(folder, "snow")[0] == 0  # other kinds of the same copy join
    before = (folder / "robustness.json").read_bytes()
    assert content(folder)["parts"]["base"]["released"].keys() == {"fog/1", "snow/1"}

    changed = [path for path in (released / "fog").rglob("*") if path.is_file()]
    for path in changed:
        path.write_bytes(path.read_bytes() + b" ")
    assert changed
    status, _, err = measured(folder, "fog")
    assert status == 2 and "with other released" in err and "the same --released" in err
    assert (folder / "robustness.json").read_bytes() == before
    assert measured(other, "fog")[0] == 0
    with pytest.raises(UsageError, match=r"different copies of ImageNet-C \(fog/1\)"):
        compare([*read_evaluations(folder), *read_evaluations(other)])
    assert measured(folder, "fog", "--redo")[0] == 0
    assert compare([*read_evaluations(folder), *read_evaluations(other)])


def test_a_test_is_described_by_its_training(fresh, capsys):
    """What it was trained on, with how many shots and with which noise its own settings say not."""
    training, folder = (run_folder(fresh, "CoOp", part) for part in ("train_base", "test_new"))
    settings = folder / "config.yaml"
    text = settings.read_text()
    assert "NUM_SHOTS: 1\n" in text
    settings.write_text(text.replace("NUM_SHOTS: 1\n", "NUM_SHOTS: -1\n"))
    (folder / "results.json").unlink()  # repeats the settings
    text = (training / "config.yaml").read_text()
    assert text.count("TRANSFORMS:\n") == 1
    changed = text.replace("TRANSFORMS:\n", "TRANSFORMS:\n  - gaussian_blur\n")
    (training / "config.yaml").write_text(changed)
    results = json.loads((training / "results.json").read_text())
    (training / "results.json").write_text(json.dumps(results | {"dataset_title": "birds"}))
    few = ["--severities", "1", "--images", "10", "--noise", "jpeg", "--classes", "new"]
    status, _, error = call(capsys, "--model-dir", folder, *few)
    assert status == 0, error
    known = content(folder)
    assert (known["source"], known["trained_on"], known["shots"]) == ("birds", "base", 1)
    assert known["noise_in_training"]["image_kinds"] == ["blur", "gaussian_blur"]
    assert call(capsys, "--model-dir", training, *few)[0] == 0
    assert (content(training)["source"], content(training)["dataset_title"]) == ("", "birds")
