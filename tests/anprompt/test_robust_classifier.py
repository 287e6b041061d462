"""evaluate() on classifiers of one's own: modules that know nothing of runs."""

import doctest
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anprompt.robustness import Classifier, TestImages, evaluate, evaluation
from anprompt.robustness.answers import Answers
from anprompt.robustness.images import ImageNetC
from anprompt.robustness.misspelling import candidates, worst_names
from anprompt.robustness.plan import Plan
from anprompt.robustness.store import Outcomes, Results
from anprompt.robustness.texts import Pools, dictionary, noisy_prompts, read_phrasings
from common.errors import UsageError
from noise import imagenet_c
from noise.cells import Cell
from noise.image import corrupt
from noise.metrics import calibration_error
from noise.seeding import rng_for
from noise.text import perturb_prompt, text_rate

NAMES = ["red apple", "green leaf", "blue lake"]
SIDE = 32


def pictures(number=12):
    rng = np.random.default_rng(0)
    found = []
    for i in range(number):
        pixels = rng.integers(0, 120, (SIDE, SIDE, 3))
        pixels[..., i % 3] += 60
        found.append(Image.fromarray(pixels.astype(np.uint8)))
    return found


@pytest.fixture(scope="module")
def images():
    return TestImages(pictures(), [i % 3 for i in range(12)])


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    layers = [torch.nn.AvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(48, 3)]
    return torch.nn.Sequential(*layers)


def with_prompts(prompts):
    """A model that answers by the letters of its prompts."""
    weights = torch.tensor([[text.count(x) for x in "rgb"] for text in prompts]).float()  # (C, 3)
    return lambda x: 20 * x.mean(dim=(2, 3)) @ weights.t()


def wordy():
    clean = [f"a photo of a {name}." for name in NAMES]
    return Classifier(
        with_prompts(clean), NAMES, template="a photo of a {}.", with_prompts=with_prompts, scale=20
    )


def test_the_example_in_the_docstring_is_true():
    result = doctest.testmod(evaluation)
    assert result.attempted > 5 and result.failed == 0


def test_the_example_in_the_docs_runs(capsys):
    text = (Path(__file__).parents[2] / "docs/ROBUSTNESS.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(example, {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines][-1] == "adversarial/pgd/4/1"
    assert any(line.startswith("imagenet-c/fog/1/") for line in lines)


# Figures ---------------------------------------------------------------------------------------


def test_figures_are_what_a_plain_loop_gives(module, images):
    found = evaluate(
        Classifier(module, NAMES), images, "gaussian_noise,blur", severities="2", seeds="4,7",
        batch_size=5,
    )["model"]  # fmt: skip
    cells = {cell.key: cell.figures for cell in found.cells()}
    assert list(cells) == [
        "image/gaussian_noise/2/4", "image/gaussian_noise/2/7", "image/blur/2/-"
    ]  # fmt: skip

    def answers(change):
        with torch.no_grad():
            logits = module(
                torch.stack(
                    [
                        torch.from_numpy(np.array(change(image, f"image {i}"))).permute(2, 0, 1)
                        / 255
                        for i, image in enumerate(pictures())
                    ]
                )
            )
        return logits.softmax(dim=1).numpy()

    clean = answers(lambda image, key: image)
    noisy = answers(
        lambda image, key: corrupt(
            image, "gaussian_noise", 2, rng_for(7, "image", key, "gaussian_noise")
        )
    )
    labels = np.arange(12) % 3
    right = noisy.argmax(axis=1) == labels
    figures = cells["image/gaussian_noise/2/7"]
    assert figures["accuracy"] == pytest.approx(100 * right.mean())
    same = (noisy.argmax(axis=1) == clean.argmax(axis=1)).mean()
    assert figures["consistency"] == pytest.approx(100 * same)
    assert figures["ece"] == pytest.approx(100 * calibration_error(noisy.max(axis=1), right))
    target = np.eye(3)[labels]
    assert figures["brier"] == pytest.approx(((noisy - target) ** 2).sum(axis=1).mean())
    assert found.clean().number == pytest.approx(100 * (clean.argmax(axis=1) == labels).mean())


def test_text_noise_is_what_other_prompts_give(images):
    found = evaluate(wordy(), images, "char,blur,both", severities="3", seeds="1")["model"]
    cells = {cell.key: cell.figures["accuracy"] for cell in found.cells()}
    prompts = noisy_prompts("a photo of a {}.", NAMES, Cell("text", "char", 3, 1))
    with torch.no_grad():
        logits = with_prompts(prompts)(images.tensors(range(12)))
    accuracy = 100 * np.mean(logits.argmax(dim=1).numpy() == images.labels)
    assert cells["text/char/3/1"] == pytest.approx(accuracy)
    blurred = torch.stack([images[(i, Cell("image", "blur", 3, None))] for i in range(12)])
    pair = 100 * np.mean(with_prompts(prompts)(blurred).argmax(dim=1).numpy() == images.labels)
    assert cells["both/blur+char/3/1"] == pytest.approx(pair)


def test_what_a_model_cannot_take_is_left_out(module, images):
    plain = evaluate(Classifier(module, NAMES), images, "all", severities="1", seeds="1")["model"]
    assert {cell.group for cell in plain.cells()} == {"image"}
    found = evaluate(wordy(), images, "char,embed,learned,blur", severities="1", seeds="1")
    assert {cell.key for cell in found["model"].cells()} == {"text/char/1/1", "image/blur/1/-"}
    bare = Classifier(with_prompts(NAMES), NAMES, template="{}", with_prompts=with_prompts)
    cells = evaluate(bare, images, "text-name,text-template,char", severities="1", seeds="1")
    assert {cell.group for cell in cells["model"].cells()} == {"text", "text-name"}


def test_all_models_meet_the_same_pictures_and_one_may_be_called_by_name(module, images):
    two = {"a": Classifier(module, NAMES), "b": Classifier(module, NAMES)}
    found = evaluate(two, images, "shot_noise", severities="5", seeds="1")
    assert [c.figures for c in found["a"].cells()] == [c.figures for c in found["b"].cells()]
    with pytest.raises(UsageError, match="blurr"):
        evaluate(two, images, "blurr")
    with pytest.raises(ValueError, match="0 images"):
        TestImages([], [])


def test_answers_go_to_a_file_and_back():
    logits = {"class": torch.randn(4, 3), "mix": torch.randn(4, 3)}
    first = Answers(np.array([0, 1, 2, 0]))
    first.add(slice(0, 4), logits)
    again = Answers(first.labels)
    for i in range(4):
        again.restore(i, json.loads(json.dumps(first.of_image(i))))
    assert again.figures(first) == first.figures(first)
    part = first.of(np.array([3, 1]))
    assert part.labels.tolist() == [0, 1]
    assert part.predictions("mix").tolist() == first.predictions("mix")[[3, 1]].tolist()


# Places, phrasings, misspellings ------------------------------------------------------------------


def test_places_of_text_noise():
    def prompts(group, kind, template="a big photo of a {}, from above."):
        return noisy_prompts(template, NAMES, Cell(group, kind, 5, 1))

    everywhere = prompts("text", "char")
    for kind in ("char", "char_swap", "one_edit", "case"):
        named, around = prompts("text-name", kind), prompts("text-template", kind)
        for name, a, b in zip(NAMES, named, around, strict=True):
            assert a.startswith("a big photo of a ") and a.endswith(", from above.")
            assert name in b and b != f"a big photo of a {name}, from above."
            assert name not in a
    # The same errors in the name wherever else there are some.
    for whole, named in zip(everywhere, prompts("text-name", "char"), strict=True):
        assert named.removeprefix("a big photo of a ").split(",")[0] in whole


def test_character_noise_is_the_same_on_shared_words():
    for kind in ("char_insert", "char_replace", "char_delete", "punctuation", "case"):
        cell = Cell("text-chen" if kind.startswith("char") else "text-form", kind, 4, 1)
        whole = noisy_prompts("a photo of a {}.", NAMES, cell)
        bare = noisy_prompts("of a {}.", NAMES, cell)
        assert all(a.endswith(b) for a, b in zip(whole, bare, strict=True)), kind
    rng = rng_for(1, "text", "char_delete", "red apple")
    rate = text_rate("char_delete", 4)
    (name,) = noisy_prompts("{}.", ["red apple"], Cell("text-chen", "char_delete", 4, 1))
    assert name == perturb_prompt("{}", "red apple", "char_delete", rate, rng) + "."


def test_phrasings_come_from_their_own_pool(tmp_path):
    cell = Cell("text-form", "phrasing", 5, 1)
    pool = ["what is shown: {}.", "behold a {}."]
    texts = noisy_prompts("a photo of a {}.", NAMES, cell, Pools(phrasings=pool))
    pairs = zip(texts, NAMES, strict=True)
    assert all(text in [other.replace("{}", name) for other in pool] for text, name in pairs)
    path = tmp_path / "pool.txt"
    path.write_text("\n".join([*pool, "", pool[0]]))
    assert read_phrasings(path) == pool
    path = tmp_path / "pool.json"
    path.write_text(json.dumps({"a": pool[:1], "b": pool[1:]}))
    assert read_phrasings(path) == pool
    for content, message in [("[]", "no templates"), ('["a"]', "has no {}"), ('{"a": 3}', "wanted"),
                             ("3", "wanted"), ('[["{}"]]', "has no {}")]:  # fmt: skip
        path.write_text(content)
        with pytest.raises(UsageError, match=message):
            read_phrasings(path)


def test_dictionary_knows_words():
    assert {"river", "apple", "photo"} <= dictionary()
    assert not {"rivxr", "applq"} & dictionary()


def test_worst_misspelling_is_the_worst_there_is(images):
    """With one class's choices left, brute force over its candidates."""
    classifier = wordy()
    worst = worst_names(classifier, images, seed=1, batch_size=5)
    options = candidates(NAMES, 1)
    assert all(name in own for name, own in zip(worst, options, strict=True))
    assert all(len(own) == 50 and len(set(own)) == 50 for own in options)

    def accuracy(names):
        prompts = [f"a photo of a {name}." for name in names]
        answers = with_prompts(prompts)(images.tensors(range(12))).argmax(dim=1)
        return np.mean(answers.numpy() == images.labels)

    last = min(accuracy([*worst[:2], name]) for name in options[2])
    assert accuracy(worst) == pytest.approx(last)
    first = min(accuracy([name, *NAMES[1:]]) for name in options[0])
    assert accuracy([worst[0], *NAMES[1:]]) == pytest.approx(first)
    assert accuracy(worst) <= accuracy(NAMES)
    found = evaluate(classifier, images, "worst-text", seeds="1")["model"]
    (cell,) = found.cells()
    assert cell.key == "worst-text/misspelling/1/1"
    assert cell.figures["accuracy"] == pytest.approx(100 * accuracy(worst))
    assert list(found.part["worst_names"].values()) == worst


# ImageNet-C ---------------------------------------------------------------------------------------


def test_imagenet_c_is_made_from_its_own_crop(module):
    large = [image.resize((80, 60)) for image in pictures(6)]
    how = ImageNetC(SIDE, 32)
    images = TestImages(large, [0, 1, 2] * 2, crop=lambda p: p.resize((SIDE, SIDE)), imagenet_c=how)
    cell = Cell("imagenet-c", "shot_noise", 3, 2)
    cropped = how.crop(large[4])
    assert cropped.size == (SIDE, SIDE)
    rng = rng_for(2, "imagenet-c", "image 4", "shot_noise")
    expected = imagenet_c.corrupt(cropped, "shot_noise", 3, rng, size=32)
    assert images.picture(4, cell).tobytes() == expected.tobytes()
    found = evaluate(
        Classifier(module, NAMES), images, "imagenet-c:shot_noise,imagenet-c-val:saturate",
        severities="3", seeds="2",
    )["model"]  # fmt: skip
    assert [cell.key for cell in found.cells()] == [
        "imagenet-c/shot_noise/3/1",
        "imagenet-c/shot_noise/3/2",
        "imagenet-c-val/saturate/3/-",
    ]


def test_sizes_without_parameters_and_missing_frost_are_refused(module):
    odd = TestImages([image.resize((48, 48)) for image in pictures(3)], [0, 1, 2])
    with pytest.raises(UsageError, match="these are 48 x 48; say which to take"):
        odd.picture(0, Cell("imagenet-c", "fog", 1, 1))
    images = TestImages(pictures(3), [0, 1, 2])
    assert images.how_imagenet_c().size == SIDE
    with pytest.raises(UsageError, match="frost needs its pictures"):
        evaluate(Classifier(module, NAMES), images, "imagenet-c", severities="1")


def test_crops_are_those_of_the_released_code():
    picture = pictures(1)[0].resize((300, 400))
    at_224 = ImageNetC(224, 224).crop(picture)
    left, top = (256 - 224) // 2, (round(256 * 400 / 300) - 224) // 2
    resized = picture.resize((256, round(256 * 400 / 300 - 0.5)), Image.Resampling.BILINEAR)
    assert at_224.size == (224, 224)
    expected = np.asarray(resized.crop((left, top, left + 224, top + 224)), dtype=int)
    assert np.abs(np.asarray(at_224, dtype=int) - expected).mean() < 3
    assert (
        ImageNetC(64, 64).crop(picture.resize((64, 64))).tobytes()
        == picture.resize((64, 64)).tobytes()
    )
    assert ImageNetC(48, 64).crop(picture).size == (48, 48)


def test_released_files_are_read_as_they_are(module, tmp_path):
    files = []
    for i, image in enumerate(pictures(6)):
        path = tmp_path / "val" / f"n0{i % 3}" / f"{i}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=95)
        files.append(path)
        folder = "fog" if i % 2 else "weather/fog"  # as the archives have it, or without
        released = tmp_path / "released" / folder / "2" / f"n0{i % 3}" / f"{i}.JPEG"
        released.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIDE, SIDE), (i, i, i)).save(released, quality=95)
    how = ImageNetC(SIDE, 32, released=tmp_path / "released")
    images = TestImages(files, [0, 1, 2] * 2, imagenet_c=how)
    picture = images.picture(4, Cell("imagenet-c-disk", "fog", 2, None))
    assert np.abs(np.asarray(picture, dtype=int) - 4).max() <= 1
    found = evaluate(Classifier(module, NAMES), images, "imagenet-c-disk:fog", severities="2")
    assert [cell.key for cell in found["model"].cells()] == ["imagenet-c-disk/fog/2/-"]
    with pytest.raises(UsageError, match="no fog/3/n00/0.JPEG"):
        images.picture(0, Cell("imagenet-c-disk", "fog", 3, None))


# Attacks ------------------------------------------------------------------------------------------


def cells_of(found):
    return {cell.key: cell.figures for cell in found.cells()}


def test_attacks_are_stronger_with_more_steps_and_bounds(module, images):
    found = evaluate(
        Classifier(module, NAMES), images, "pgd2,pgd10,pgd100-dlr,pgd100-unscaled", eps="4,64"
    )["model"]
    cells = cells_of(found)
    assert len(cells) == 8
    clean = found.clean().number
    assert cells["adversarial/pgd10/64/1"]["accuracy"] <= cells["adversarial/pgd2/4/1"]["accuracy"]
    assert cells["adversarial/pgd100-dlr/64/1"]["accuracy"] < clean


def test_attacks_on_some_of_the_images(module, images):
    classifier = Classifier(module, NAMES)
    found = evaluate(classifier, images, "pgd", eps="8", attack_images=6)["model"]
    whole = evaluate(classifier, images, "pgd", eps="8")["model"]
    attacked = cells_of(found)["adversarial/pgd/8/1"]
    assert round(attacked["accuracy"] * 6 / 100, 6) in range(7)
    assert found.clean(attacked=True).number == pytest.approx(
        found.part["attacked"]["clean"]["class"]["accuracy"]
    )
    assert whole.clean(attacked=True).number == whole.clean().number
    assert "attacked" not in whole.part


def test_transferred_images_are_made_on_the_surrogate(images):
    """A model that no small change misleads is misled by nothing that transfers."""
    robust = Classifier(lambda x: 1e3 * (x.mean(dim=(2, 3)) - 0.2).sign(), NAMES)
    torch.manual_seed(1)
    weak = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIDE * SIDE, 3))
    surrogate = Classifier(weak, NAMES)
    found = evaluate(robust, images, "transfer", eps="1", surrogate=surrogate)["model"]
    moved = cells_of(found)["adversarial/transfer/1/1"]
    own = cells_of(evaluate(surrogate, images, "pgd100", eps="1")["model"])
    assert moved["consistency"] == 100
    assert own["adversarial/pgd100/1/1"]["consistency"] < 100
    with pytest.raises(UsageError, match="no model to make the images on"):
        evaluate(robust, images, "transfer", eps="1")


def test_what_is_made_for_several_models_is_made_once_and_kept_no_longer(images, monkeypatch):
    torch.manual_seed(1)
    weak = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIDE * SIDE, 3))
    surrogate = Classifier(weak, NAMES)
    models = {name: Classifier(weak, NAMES) for name in ("one", "other")}
    kept, made = [], []
    attack, one_of = evaluation._attack, evaluation.attacked

    def noted(task, cell, *args):
        kept.append((cell.severity, args[3] is not None, len(args[3] or {})))
        return attack(task, cell, *args)

    monkeypatch.setattr(evaluation, "_attack", noted)
    monkeypatch.setattr(evaluation, "attacked", lambda *a, **m: made.append(1) or one_of(*a, **m))
    both = evaluate(models, images, "transfer", eps="1,4", surrogate=surrogate, batch_size=6)
    assert kept == [(1, True, 0), (1, True, 2), (4, True, 0), (4, True, 2)] and len(made) == 4
    del kept[:]
    alone = evaluate(
        models["one"], images, "transfer", eps="1,4", surrogate=surrogate, batch_size=6
    )
    assert kept == [(1, False, 0), (4, False, 0)]
    assert cells_of(alone["model"]) == cells_of(both["one"]) == cells_of(both["other"])


def test_a_stopped_attack_goes_on_after_the_last_batch(module, images, tmp_path, monkeypatch):
    from anprompt.robustness.evaluation import Task, measure

    classifier = Classifier(module, NAMES)

    def task():
        results = Results(Results.begun({"classnames": NAMES}))
        outcomes = Outcomes(tmp_path / "robustness_attacks.json", "print")
        cells = list(Plan(attacks=(("pgd", 8),), seeds=(1,)).cells())
        return Task(classifier, results, cells, np.arange(12), outcomes=outcomes, subset="all")

    def run(one):
        measure([one], images, Pools(), batch_size=5)
        return one.results.content["cells"]["adversarial/pgd/8/1"]

    attacked, batches = evaluation.attacked, []

    def stops(*args, **options):
        batches.append(len(options["keys"]))
        if len(batches) == 3:
            raise KeyboardInterrupt
        return attacked(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "attacked", stops)
        with pytest.raises(KeyboardInterrupt):
            run(task())
        assert batches == [5, 5, 2]
        kept = json.loads((tmp_path / "robustness_attacks.json").read_text())
        assert len(kept["parts"]["all"]["adversarial/pgd/8/1"]) == 10
        again = run(task())
        assert batches == [5, 5, 2, 2]
    (tmp_path / "robustness_attacks.json").unlink()
    assert again["class"] == pytest.approx(run(task())["class"])


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"fingerprint": "print", "parts": {"all": {"adversarial/pgd/8/1": 3}}}',
     '{"fingerprint": "print", "parts": {"all": {"c": {"i": {"class": ["a"]}}}}}',
     '{"fingerprint": "other", "parts": {"all": {"c": {"i": {"class": [1, 0.5, 0.1]}}}}}'],
)  # fmt: skip
def test_damaged_or_foreign_outcomes_are_not_used(tmp_path, content):
    path = tmp_path / "robustness_attacks.json"
    path.write_text(content)
    outcomes = Outcomes(path, "print")
    assert outcomes.of("all", Cell("adversarial", "pgd", 8, 1), ["class"], 3) == {}
