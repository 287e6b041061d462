"""Data sets, few-shot sampling, samplers, loaders."""

import os

import pytest
import torch
from dassl_toy import CLASSES, few
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from dassl.data import DataManager, DatasetWrapper, build_data_loader, data_manager
from dassl.data.dataset_wrapper import ImageCache
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum, build_dataset
from dassl.data.samplers import RepeatedBatches, SeededSampler, build_sampler
from dassl.data.transforms import build_transform
from dassl.utils import UsageError, set_random_seed


def items(labels, domains=None):
    domains = domains or [0] * len(labels)
    return [
        Datum(impath=f"{i}.png", label=label, domain=domain, classname=f"class {label}")
        for i, (label, domain) in enumerate(zip(labels, domains, strict=True))
    ]


# The data set


def test_datum_is_read_only():
    datum = Datum(impath="a.png", label=1, domain=2, classname="cat")
    assert (datum.impath, datum.label, datum.domain, datum.classname) == ("a.png", 1, 2, "cat")
    with pytest.raises(AttributeError):
        datum.label = 3
    with pytest.raises(TypeError):
        Datum(impath=3)


def test_class_names_in_order_of_label():
    data = DatasetBase(train_x=items([2, 0, 1, 0]), val=items([1]), test=items([2]))
    assert data.num_classes == 3
    assert data.classnames == ["class 0", "class 1", "class 2"]
    assert data.lab2cname == {0: "class 0", 1: "class 1", 2: "class 2"}


@pytest.mark.parametrize(
    ("splits", "named"),
    [
        ({"train_x": []}, "no training images"),
        ({"train_x": items([0, 2])}, "label 1"),
        ({"train_x": items([0, 1]), "test": items([0, 5])}, "1.png has label 5"),
        ({"train_x": items([0, 1]), "val": items([-1])}, "label -1"),
        ({"train_x": [Datum("a", 0, 0, "cat"), Datum("b", 0, 0, "dog")]}, "'cat'.*'dog'"),
    ],
)
def test_labels_that_do_not_fit(splits, named):
    with pytest.raises(UsageError, match=named):
        DatasetBase(**splits)


# Few-shot sampling


def test_few_shot_draws_what_upstream_drew(golden, fake_eurosat):
    """Seed 1, 16 shots: train first, then 4 of val, in classes' order of appearance."""
    from dassl.utils import read_json

    split = read_json(str(fake_eurosat / "eurosat" / "split_zhou_EuroSAT.json"))
    train, val = ([Datum(impath=p, label=y) for p, y, _ in split[s]] for s in ("train", "val"))
    data = DatasetBase(train_x=train)
    set_random_seed(1)
    train = data.generate_fewshot_dataset(train, num_shots=16)
    val = data.generate_fewshot_dataset(val, num_shots=4)
    recorded = golden("eurosat_fewshot")["base"]
    assert [[d.impath, d.label] for d in train if d.label < 5] == recorded["train_x"]
    assert [[d.impath, d.label] for d in val if d.label < 5] == recorded["val"]


@few
@given(st.lists(st.integers(0, 4), min_size=1), st.integers(1, 6), st.booleans())
def test_few_shot(labels, shots, repeat):
    source = items(labels)
    base = DatasetBase.__new__(DatasetBase)
    drawn = base.generate_fewshot_dataset(source, num_shots=shots, repeat=repeat)
    order = list(dict.fromkeys(labels))
    for label in order:
        own = [d for d in drawn if d.label == label]
        there = labels.count(label)
        assert len(own) == (shots if repeat else min(shots, there))
        if there >= shots or not repeat:
            assert len(set(own)) == len(own)
    assert [d.label for d in drawn] == sorted((d.label for d in drawn), key=order.index)
    assert set(drawn) <= set(source)


def test_few_shot_of_several_lists_and_of_all():
    base = DatasetBase.__new__(DatasetBase)
    one, two = items([0, 0, 1]), items([1, 1, 1])
    assert [len(x) for x in base.generate_fewshot_dataset(one, two, num_shots=2)] == [3, 2]
    assert base.generate_fewshot_dataset(one, num_shots=-1) is one
    assert base.generate_fewshot_dataset(one, two, num_shots=0) == [one, two]


# Samplers


def test_seeded_sampler_takes_what_a_plain_loader_takes():
    """Same image order and same state of the global generator as a DataLoader with RandomSampler,
    which is what upstream's order comes from."""
    source = list(range(23))
    torch.manual_seed(4)
    plain = [
        [int(i) for i in batch]
        for _ in range(2)
        for batch in DataLoader(source, batch_size=5, sampler=RandomSampler(source))
    ]
    after = torch.rand(1)
    torch.manual_seed(4)
    sampler = SeededSampler(RandomSampler(source))
    ours = [index for _ in range(2) for index, _ in sampler]
    assert ours == [i for batch in plain for i in batch]
    assert torch.rand(1) == after
    assert len({seed for _, seed in sampler}) == len(source)
    torch.manual_seed(4)
    assert list(SeededSampler(RandomSampler(source), with_seeds=False)) == ours[: len(source)]


@pytest.mark.parametrize(("steps", "passes"), [(2, 1), (3, 1), (8, 3)])
def test_an_epoch_of_fixed_steps(steps, passes):
    def order():
        torch.manual_seed(4)
        return BatchSampler(RandomSampler(range(7)), 2, drop_last=True)

    repeated = RepeatedBatches(order(), steps)
    assert len(repeated) == steps
    drawing = iter(repeated)
    first = next(drawing)
    later = torch.rand(1)  # what a step of training draws has no part in the order
    batches = [first, *drawing]
    plain = order()
    assert batches == [batch for _ in range(passes) for batch in plain][:steps]
    assert torch.rand(1) == later


@pytest.mark.parametrize("number", [0, 2])
def test_a_loader_reads_images_over_and_over(toy_cfg, number):
    def two_passes(steps):
        torch.manual_seed(2)
        cfg = toy_cfg("DATALOADER.NUM_WORKERS", number)
        loader = DataManager(cfg, steps=steps).train_loader_x
        assert len(loader) == (steps or 3)  # 24 images in batches of 7
        return [batch["img"] for _ in range(6 // len(loader)) for batch in loader]

    over_and_over = two_passes(6)
    assert len({batch.sum() for batch in over_and_over}) == 6  # the second pass has other views
    torch.testing.assert_close(over_and_over, two_passes(0), rtol=0, atol=0)


def test_unknown_sampler():
    with pytest.raises(UsageError, match="'RandomSamplr'; nearest known: RandomSampler"):
        build_sampler("RandomSamplr", items([0, 1]))


# Samples


def test_batch(toy_cfg):
    manager = DataManager(toy_cfg())
    batch = next(iter(manager.train_loader_x))
    assert set(batch) == {"img", "label", "domain", "impath", "index"}
    assert batch["img"].shape == (7, 3, 12, 12)
    train = manager.dataset.train_x
    for i, index in enumerate(batch["index"].tolist()):
        assert train[index].impath == batch["impath"][i]
        assert train[index].label == batch["label"][i]
        assert train[index].domain == batch["domain"][i]


def test_views(toy_cfg):
    cfg = toy_cfg("DATALOADER.K_TRANSFORMS", 2)
    dataset = build_dataset(cfg)
    one, two = build_transform(cfg), build_transform(cfg, choices=["normalize"])
    wrapper = DatasetWrapper(cfg, dataset.train_x, transform=[one, two], is_train=True)
    sample = wrapper[3, 5]
    assert [len(sample["img"]), len(sample["img2"])] == [2, 2]
    assert not torch.equal(*sample["img"])
    assert torch.equal(*sample["img2"])
    test = DatasetWrapper(cfg, dataset.test, transform=two)[0]
    assert test["img"].shape == (3, 12, 12)
    with pytest.raises(UsageError, match="K_TRANSFORMS"):
        DatasetWrapper(cfg, dataset.train_x, is_train=True)
    cfg.DATALOADER.K_TRANSFORMS = 1
    assert DatasetWrapper(cfg, dataset.train_x)[0]["img"].size == (20, 16)


def test_a_seed_decides_the_transform(toy_cfg):
    cfg = toy_cfg()
    wrapper = DatasetWrapper(cfg, build_dataset(cfg).train_x, build_transform(cfg), is_train=True)
    assert torch.equal(wrapper[2, 9]["img"], wrapper[2, 9]["img"])
    assert not torch.equal(wrapper[2, 9]["img"], wrapper[2, 10]["img"])
    assert not torch.equal(wrapper[2]["img"], wrapper[2]["img"])


def test_images_are_read_as_their_data_set_says(toy_cfg, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    Image.new("RGB", (20, 16)).save(path, exif=exif)
    for reading, size in (("upstream", (20, 16)), ("as_seen", (16, 20))):
        wrapper = DatasetWrapper(toy_cfg(), [Datum(str(path), reading=reading)])
        assert wrapper[0]["img"].size == size


def test_image_cache(toy_root):
    paths = [str(toy_root / "train" / f"0_{i}.png") for i in range(4)]
    size = 20 * 16 * 3
    cache = ImageCache(2 * size + 1)
    first = [cache.read(path) for path in paths]
    assert cache.used == 2 * size
    for image in (first[0], cache.read(paths[0])):
        image.putpixel((0, 0), (1, 2, 3))  # the caller's copy, not the cached image
    fresh = ImageCache(0)
    for path in paths:
        assert cache.read(path).tobytes() == fresh.read(path).tobytes()
    assert fresh.used == 0


def test_cached_training_sees_the_same_pixels(toy_cfg):
    def epoch(mb):
        manager = DataManager(toy_cfg("DATALOADER.CACHE_IMAGES_MB", mb))
        set_random_seed(0)
        return [b["img"] for _ in range(2) for b in manager.train_loader_x]

    for cached, plain in zip(epoch(256), epoch(0), strict=True):
        assert torch.equal(cached, plain)


# Loaders


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(toy_cfg, workers):
    def run(number):
        manager = DataManager(toy_cfg("DATALOADER.NUM_WORKERS", number))
        set_random_seed(3)
        seen = []
        for _ in range(2):
            for batch in manager.train_loader_x:
                seen += [batch["img"], batch["index"].float(), torch.rand(1)]
            seen += [batch["img"] for batch in manager.val_loader]
        return seen

    for mine, plain in zip(run(workers), run(0), strict=True):
        assert torch.equal(mine, plain)


def test_workers_live_on(toy_cfg):
    loader = DataManager(toy_cfg("DATALOADER.NUM_WORKERS", 1)).train_loader_x
    list(loader)
    before = [worker.pid for worker in loader._iterator._workers]
    list(loader)
    assert [worker.pid for worker in loader._iterator._workers] == before


def test_no_more_workers_than_batches_or_cores(toy_cfg):
    manager = DataManager(toy_cfg("DATALOADER.NUM_WORKERS", 1000))
    assert manager.val_loader.num_workers <= len(manager.val_loader)
    assert manager.train_loader_x.num_workers <= os.cpu_count()


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(24, [24]), (7, [7, 7, 7]), (25, [24]), (5, [5, 5, 5, 5])]
)
def test_last_batch_in_training(toy_cfg, batch_size, sizes):
    """24 images: an incomplete batch is dropped unless it is the only one."""
    manager = DataManager(toy_cfg("DATALOADER.TRAIN_X.BATCH_SIZE", batch_size))
    assert [len(batch["label"]) for batch in manager.train_loader_x] == sizes


def test_testing_keeps_order_and_every_image(toy_cfg):
    manager = DataManager(toy_cfg("DATALOADER.TEST.BATCH_SIZE", 4))
    batches = list(manager.test_loader)
    assert [len(batch["label"]) for batch in batches] == [4, 4, 4, 3]
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(15))


def test_testing_draws_nothing(toy_cfg):
    manager = DataManager(toy_cfg())
    state = torch.get_rng_state()
    list(manager.test_loader)
    assert torch.equal(torch.get_rng_state(), state)


def test_own_wrapper_and_transforms(toy_cfg):
    """A wrapper that knows nothing of seeds gets plain integers as indices."""

    class Plain(torch.utils.data.Dataset):
        def __init__(self, cfg, data_source, transform=None, is_train=False):
            self.data_source, self.transform = data_source, transform

        def __len__(self):
            return len(self.data_source)

        def __getitem__(self, index):
            return {"index": index, "label": self.data_source[index].label, "img": self.transform}

    manager = DataManager(toy_cfg(), 1.0, 2.0, dataset_wrapper=Plain)
    batch = next(iter(manager.train_loader_x))
    assert batch["index"].shape == (7,)
    assert batch["img"].tolist() == [1.0] * 7
    assert next(iter(manager.test_loader))["img"][0] == 2.0


def test_a_wrapper_that_reads_by_itself_gets_plain_indices(toy_cfg):
    class Mine(DatasetWrapper):
        def __getitem__(self, idx):
            assert isinstance(idx, int)
            return super().__getitem__(idx)

    manager = DataManager(toy_cfg(), dataset_wrapper=Mine)
    assert next(iter(manager.train_loader_x))["img"].shape == (7, 3, 12, 12)


def test_few_open_files_mean_fewer_workers(toy_cfg, monkeypatch, caplog):
    """With too few, loading would hang."""
    monkeypatch.setattr(data_manager, "_open_files", lambda: 24)
    cfg = toy_cfg("DATALOADER.NUM_WORKERS", 1)
    manager = DataManager(cfg)
    assert manager.train_loader_x.num_workers == 0
    assert "0 of 1 workers read images: this shell allows 24 open files" in caplog.text


def test_as_many_open_files_as_allowed_are_taken():
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, before[1]))
        assert data_manager._open_files() > 128
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_summary(toy_cfg, capsys):
    DataManager(toy_cfg())
    lines = capsys.readouterr().out.splitlines()
    for line in ("# classes  3", "# train_x  24", "# val      9", "# test     15"):
        assert line in lines


# Wrong input


def test_unknown_data_set(toy_cfg):
    with pytest.raises(UsageError, match="nearest known: .*ToyImages"):
        build_dataset(toy_cfg("DATASET.NAME", "ToyImage"))


def test_missing_file_of_a_data_set(toy_cfg, monkeypatch):
    class NeedsList(DatasetBase):
        def __init__(self, cfg):
            os.stat(os.path.join(cfg.DATASET.ROOT, "list.txt"))

    monkeypatch.setitem(DATASET_REGISTRY._objects, "ToyImages", NeedsList)
    with pytest.raises(UsageError, match="list.txt not found; DATASET.ROOT is"):
        build_dataset(toy_cfg())


def test_missing_images(toy_cfg, tmp_path):
    with pytest.raises(UsageError, match="24 of 24 train images are missing.*0_0.png"):
        DataManager(toy_cfg("DATASET.ROOT", str(tmp_path)))


@pytest.mark.parametrize(
    ("splits", "named"),
    [
        ({"train_x": items([0]), "test": items([0])}, "one class"),
        ({"train_x": items([0, 1])}, "no test images"),
    ],
)
def test_data_sets_that_cannot_be_used(toy_cfg, monkeypatch, splits, named):
    class Poor(DatasetBase):
        def __init__(self, cfg):
            super().__init__(**splits)

    monkeypatch.setitem(DATASET_REGISTRY._objects, "ToyImages", Poor)
    with pytest.raises(UsageError, match=named):
        DataManager(toy_cfg())


def test_empty_list_and_batch(toy_cfg):
    with pytest.raises(UsageError, match="empty list"):
        build_data_loader(toy_cfg(), data_source=[])
    with pytest.raises(UsageError, match="batch size is 0"):
        build_data_loader(toy_cfg(), data_source=items([0, 1]), batch_size=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_image_that_does_not_decode(toy_cfg, tmp_path, workers):
    path = tmp_path / "broken.png"
    path.write_bytes(b"nothing")
    cfg = toy_cfg("DATALOADER.NUM_WORKERS", workers)
    source = [Datum(impath=str(path), label=0, classname=CLASSES[0])]
    loader = build_data_loader(cfg, data_source=source, tfm=build_transform(cfg))
    with pytest.raises(UsageError) as error:
        list(loader)
    assert str(error.value).startswith(f"image cannot be decoded: {path}")
    assert "\n" not in str(error.value)
