"""Pretraining on a tiny world of drawn pictures: it learns, resumes, exports what it trained."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from anprompt.commands import pretrain as pretrain_small_clip
from anprompt.commands.pretrain import main
from anprompt.pretraining import batches, pictures
from anprompt.pretraining import training as steps
from anprompt.pretraining import world as worlds
from anprompt.pretraining.batches import Captions, augment
from anprompt.pretraining.muon import Muon, orthogonalise
from anprompt.pretraining.training import (
    Recipe,
    Training,
    contrastive_loss,
    image_features,
    text_features,
)
from anprompt.pretraining.zero_shot import (
    Evaluation,
    Images,
    benchmark_folder,
    read_split,
    zero_shot,
)
from clip import load_model, tokenize
from common.errors import UsageError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def few_words():
    """A world of 36 kinds of pictures, not hundreds: its captions are read quickly."""
    with pytest.MonkeyPatch.context() as patch:
        colours = {c: pictures.COLOURS[c] for c in ("red", "blue", "gray")}
        patch.setattr(worlds, "COLOURS", colours)
        patch.setattr(worlds, "SHAPES", ("circle", "drop", "ring"))
        yield


@pytest.fixture(scope="module")
def world(few_words):
    return worlds.build_world(None, drawn=60, seed=3)


@pytest.fixture(scope="module")
def trained(world):
    training = Training(world, Recipe(batch_size=8), seed=3)
    for _ in range(2):
        training.run_step(0.5)
    return training


def arguments(tmp_path, *more):
    tmp_path.mkdir(exist_ok=True)
    return [
        *("--drawn", "24", "--batch-size", "6", "--samples", "600000", "--check-every", "0"),
        *("--out", str(tmp_path / "small.safetensors"), "--work", str(tmp_path / "work")),
        *map(str, more),
    ]


def test_pictures_repeat_and_show_every_word():
    for colour, pattern, shape in (("red", "striped", "circle"), ("blue", "plain", "drop")):
        drawn = [
            pictures.draw_picture(colour, pattern, shape, np.random.default_rng(seed))
            for seed in (1, 1, 2)
        ]
        assert np.array_equal(drawn[0], drawn[1])
        assert not np.array_equal(drawn[0], drawn[2])
        for caption in pictures.shape_captions(colour, pattern, shape):
            assert colour in caption and shape in caption
    for shape in pictures.SHAPES:  # none is unknown to the outlines
        pictures.draw_picture("red", "dotted", shape, np.random.default_rng(0))


def test_captions_hold_only_seen_tokens(world):
    captions = Captions(world)
    words = "a red striped circle"
    row = next(
        row
        for texts, rows in zip(world.captions, captions.captions, strict=True)
        for text, row in zip(texts, rows, strict=True)
        if text == words
    )
    expected = tokenize([words])[0]
    assert captions.ids[row].tolist() == expected[: len(row)].tolist()
    assert len(captions.ids) < 1000


def test_augmented_images_have_the_models_shape(world):
    source = world.sources[0]
    pixels = augment(source.images[:4], source, 1.0, torch.Generator().manual_seed(0))
    assert pixels.shape == (4, 3, 48, 48)
    assert pixels.isfinite().all()


def test_no_augmentation_is_the_image_itself(world):
    source = world.sources[0]
    still = worlds.Source("still", source.images, source.labels, 1, 1, 1.0, 0)
    plain = augment(source.images[:8], still, 0.0, torch.Generator().manual_seed(0))
    expected = batches.normalise(source.images[:8].float() / 255)
    # Colours are jittered at any strength: compare up to an affine change per image and channel.
    small = F.interpolate(expected, 48, mode="bilinear")
    for got, wanted in zip(plain, small, strict=True):
        mirrored = wanted.flip(-1)
        fits = [
            torch.corrcoef(torch.stack([got.flatten(), image.flatten()]))[0, 1]
            for image in (wanted, mirrored)
        ]
        assert max(fits) > 0.95


def test_loss_is_clips_when_all_captions_differ():
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    target = torch.arange(5)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2
    assert contrastive_loss(logits, target).item() == pytest.approx(expected.item(), abs=1e-6)


def test_images_of_one_caption_are_all_its_positives():
    logits = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([0, 0, 0, 1])
    rows = logits.t().log_softmax(dim=1)
    texts = -(rows[0, :3].mean() + rows[1, 3]) / 2
    expected = (F.cross_entropy(logits, target) + texts) / 2
    assert contrastive_loss(logits, target).item() == pytest.approx(expected.item(), abs=1e-6)


def test_muon_updates_are_orthogonal_and_of_adamws_size():
    matrices = torch.randn(3, 16, 48, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert ((values > 0.6) & (values < 1.3)).all()

    weight = torch.nn.Parameter(torch.zeros(48, 16))
    weight.grad = matrices[0].t().clone()
    Muon([weight], lr=0.01, weight_decay=0.0).step()
    assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.2)
    assert (weight * weight.grad).sum() < 0  # downhill


def test_a_step_moves_every_parameter(world):
    training = Training(world, Recipe(batch_size=8), seed=3)
    before = {name: p.detach().clone() for name, p in training.model.named_parameters()}
    loss = training.run_step(0.5)
    assert np.isfinite(loss)
    moved = {name for name, p in training.model.named_parameters() if not p.equal(before[name])}
    assert moved == set(before)


def test_fast_paths_give_the_models_own_features(trained, tmp_path):
    """Export, load through clip: the same features as in training, up to fp16 rounding."""
    path = tmp_path / "small.safetensors"
    pretrain_small_clip.export(trained.model, trained.captions.ids, path)
    assert path.stat().st_size < 12 * 2**20
    model = load_model(str(path))
    texts = ["a red striped circle", "a picture of a blue drop.", "this is a gray dotted ring."]
    texts = [text for text in texts if text in trained.world.all_texts()]
    rows = [
        row
        for text in texts
        for rows_of, texts_of in zip(trained.captions.captions, trained.world.captions, strict=True)
        for row, known in zip(rows_of, texts_of, strict=True)
        if known == text
    ]
    assert len(rows) == len(texts) >= 2
    images = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    trained.model.eval()
    with torch.no_grad():
        for ours, theirs in (
            (text_features(trained.model, rows), model.encode_text(tokenize(texts))),
            (image_features(trained.model, images), model.encode_image(images)),
        ):
            cosine = F.cosine_similarity(ours, theirs, dim=-1)
            assert (cosine > 1 - 1e-4).all()
            assert (ours - theirs).abs().max() < 0.01 * ours.abs().max()
    full = pretrain_small_clip.full_model(trained.model, trained.captions.ids)
    assert torch.equal(full.token_embedding.weight[trained.captions.ids],
                       trained.model.token_embedding.weight)  # fmt: skip


def test_dropping_patches_keeps_the_class_token_and_so_many(trained, monkeypatch):
    seen = []
    transformer = trained.model.visual.transformer
    run = type(transformer).run

    def spy(self, x, **options):
        seen.append(x.shape[1])
        return run(self, x, **options)

    monkeypatch.setattr(type(transformer), "run", spy)
    images = torch.zeros(2, 3, 48, 48)
    with torch.no_grad():
        image_features(trained.model, images, 18, torch.Generator().manual_seed(0))
        image_features(trained.model, images)
    assert seen == [19, 37]


def test_the_tail_leaves_benchmarks_out(world):
    training = Training(world, Recipe(batch_size=8), seed=3)
    source = world.sources[0]
    other = dataclasses.replace(source, name="asked for", benchmark=True)
    training.world = dataclasses.replace(world, sources=[source, other])
    drawn = []
    monitor = batches.draw_indices

    def spy(source, count, rng):
        drawn.append(source.name)
        return monitor(source, count, rng)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "draw_indices", spy)
        training.run_step(0.99)
        training.run_step(1.0)
    assert drawn == ["drawn", "asked for", "drawn"]


def test_a_resumed_run_is_the_undisturbed_one(world, tmp_path):
    through = Training(world, Recipe(batch_size=6), seed=3)
    losses = [through.run_step(0.5) for _ in range(3)]

    killed = Training(world, Recipe(batch_size=6), seed=3)
    killed.run_step(0.5)
    killed.save(tmp_path / "checkpoint.pt")
    killed.run_step(0.5)  # lost

    resumed = Training(world, Recipe(batch_size=6), seed=3)
    resumed.load(tmp_path / "checkpoint.pt")
    assert [resumed.run_step(0.5) for _ in range(2)] == losses[1:]
    for ours, theirs in zip(through.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_command_trains_resumes_and_refuses(tmp_path, capsys):
    assert main(arguments(tmp_path, "--max-steps", 1)) == 0
    assert "1 steps, 6 samples" in capsys.readouterr().out
    with pytest.raises(UsageError, match="checkpoint.pt exists: --resume continues it"):
        main(arguments(tmp_path, "--max-steps", 2))
    assert main(arguments(tmp_path, "--max-steps", 2, "--resume")) == 0
    assert "2 steps, 12 samples" in capsys.readouterr().out
    assert load_model(str(tmp_path / "small.safetensors")).visual.input_resolution == 48

    before = (tmp_path / "small.safetensors").read_bytes()
    recorded = json.loads((tmp_path / "small.json").read_text())
    assert recorded == {"sha256": hashlib.sha256(before).hexdigest()}
    (tmp_path / "work" / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(UsageError, match="checkpoint.pt"):
        main(arguments(tmp_path, "--max-steps", 3, "--resume"))
    assert (tmp_path / "small.safetensors").read_bytes() == before


def test_command_names_missing_data(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.*--data|--data.*nowhere"):
        main(arguments(tmp_path, "--data", tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="none.safetensors"):
        main(["--evaluate", "--out", str(tmp_path / "none.safetensors")])


def test_evaluation_reads_what_the_data_folder_has(tmp_path):
    folder = tmp_path / "eurosat"
    (folder / "2750").mkdir(parents=True)
    test = []
    for label, name in enumerate(("Forest", "River")):
        Image.new("RGB", (64, 50), (90, 120, 40 * label)).save(folder / "2750" / f"{label}.jpg")
        test.append([f"{label}.jpg", label, name])
    split = {"train": [], "val": [], "test": test}
    (folder / "split_zhou_EuroSAT.json").write_text(json.dumps(split))
    images = read_split(benchmark_folder(tmp_path, "EuroSAT"), "EuroSAT", "test", 48)
    assert images.pixels.shape == (2, 3, 48, 48)
    assert images.labels.tolist() == [0, 1]
    assert images.classnames == ["Forest", "River"]
    assert benchmark_folder(tmp_path, "Caltech101") is None
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Evaluation(tmp_path / "nowhere", "test", 48)


def test_zero_shot_counts_right_answers(trained, world):
    """Images labelled with the model's own answers score 100."""
    model = pretrain_small_clip.full_model(trained.model, trained.captions.ids)
    pixels = batches.normalise(F.interpolate(world.sources[0].images[:12].float() / 255, 48))
    names = ["red circle", "blue square", "green star"]
    tokens = tokenize([f"a {name}." for name in names])
    with torch.no_grad():
        logits, _ = model(pixels, tokens)
    answers = logits.argmax(dim=1)
    figures = zero_shot(model, Images(pixels, answers, names), "a {}.")
    assert figures == {"accuracy": 100.0, "mean_per_class": 100.0}
    wrong = zero_shot(model, Images(pixels, (answers + 1) % 3, names), "a {}.")
    assert wrong == {"accuracy": 0.0, "mean_per_class": 0.0}


def test_only_training_images_are_read(tmp_path):
    """A data folder with a split whose test image is absent builds: it is never opened."""

    def split(folder, images, name, classes):
        (tmp_path / folder / images).mkdir(parents=True)
        train = []
        for label, classname in enumerate(classes):
            path = f"{label}.jpg"
            Image.new("RGB", (70, 60), (40 * label, 90, 120)).save(
                tmp_path / folder / images / path
            )
            train.append([path, label, classname])
        absent = [["absent.jpg", 0, classes[0]]]
        content = {"train": train, "val": absent, "test": absent}
        (tmp_path / folder / name).write_text(json.dumps(content))

    split("caltech-101", "101_ObjectCategories", "split_zhou_Caltech101.json", ["ant", "car_side"])
    split("eurosat", "2750", "split_zhou_EuroSAT.json", ["Forest", "River"])
    (tmp_path / "tiny-imagenet" / "images" / "n1").mkdir(parents=True)
    (tmp_path / "tiny-imagenet" / "classnames.txt").write_text("n1 ant\n")
    Image.new("RGB", (64, 64)).save(tmp_path / "tiny-imagenet" / "images" / "n1" / "a.JPEG")

    world = worlds.build_world(tmp_path, drawn=4)
    by_name = {source.name: source for source in world.sources}
    assert [len(by_name[n].images) for n in ("caltech101", "eurosat", "tiny-imagenet")] == [2, 2, 1]
    ant = by_name["caltech101"].labels[0]
    assert by_name["tiny-imagenet"].labels.tolist() == [ant]  # one name, one text class
    assert "a photo of an ant." in world.captions[ant]
    assert Training(world, Recipe(batch_size=8), seed=1).run_step(0.9) > 0
