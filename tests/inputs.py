"""Seeded test inputs, and a check that several contracts share.

The inputs are random CLIP weights and the fake EuroSAT that the golden numbers were recorded on:
the same to the bit wherever they are made.
"""

import hashlib
import json
import os

import pytest
import torch

from benchmarks.random_clip import random_clip_state_dict  # noqa: F401  (tests take it from here)

# folder name -> class name, as upstream's EuroSAT; label = position in this sorted list
EUROSAT = [
    ("AnnualCrop", "Annual Crop Land"),
    ("Forest", "Forest"),
    ("HerbaceousVegetation", "Herbaceous Vegetation Land"),
    ("Highway", "Highway or Road"),
    ("Industrial", "Industrial Buildings"),
    ("Pasture", "Pasture Land"),
    ("PermanentCrop", "Permanent Crop Land"),
    ("Residential", "Residential Buildings"),
    ("River", "River"),
    ("SeaLake", "Sea or Lake"),
]


def _image(label, index, width=80, height=72):
    """uint8 H x W x 3: a class pattern (integers only) + uniform noise from torch.Generator."""
    g = torch.Generator().manual_seed(1_000_003 * (label + 1) + index)
    noise = torch.randint(0, 96, (height, width, 3), generator=g, dtype=torch.int64)
    yy = torch.arange(height).view(-1, 1)
    xx = torch.arange(width).view(1, -1)
    period = 4 + 3 * label
    stripe = (((xx * (1 + label % 3) + yy * (1 + label // 3)) % period) * 255) // period
    chan = torch.stack([(stripe * (1 + (label + c) % 3)) % 160 for c in range(3)], dim=-1)
    return (noise + chan).clamp(0, 255).to(torch.uint8)


def make_fake_eurosat(root, ext="png", n_train=20, n_val=6, n_test=10):
    """eurosat/2750/<Folder>/<Folder>_<k>.<ext> and split_zhou_EuroSAT.json. PNG by default:
    lossless, so the pixels do not depend on the JPEG library. Images are 80x72, so that train
    resize (squash) and test
    resize + center crop differ."""
    from PIL import Image

    base = os.path.join(root, "eurosat")
    split = {"train": [], "val": [], "test": []}
    h = hashlib.sha256()
    for label, (folder, cname) in enumerate(EUROSAT):
        d = os.path.join(base, "2750", folder)
        os.makedirs(d, exist_ok=True)
        k = 0
        for part, n in (("train", n_train), ("val", n_val), ("test", n_test)):
            for _ in range(n):
                k += 1
                name = f"{folder}/{folder}_{k}.{ext}"
                arr = _image(label, k).numpy()
                h.update(arr.tobytes())
                im = Image.fromarray(arr)
                im.save(
                    os.path.join(base, "2750", name), **({"quality": 95} if ext == "jpg" else {})
                )
                split[part].append([name, label, cname])
    with open(os.path.join(base, "split_zhou_EuroSAT.json"), "w") as f:
        json.dump(split, f, indent=1)
    return h.hexdigest()


def state_dict_digest(weights):
    """SHA-256 over keys, shapes and bytes, in order."""
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(name.encode())
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_resuming(make_trainer, name: str):
    """Train a method in folder "whole", and in "parts" with an interruption; compare bit by bit."""
    whole = make_trainer(name, "whole")
    whole.train()
    begin = make_trainer(name, "parts")
    before_epoch = begin.before_epoch

    def interrupted():
        if begin.epoch == 1:
            raise KeyboardInterrupt
        before_epoch()

    begin.before_epoch = interrupted
    with pytest.raises(KeyboardInterrupt):
        begin.train()
    resumed = make_trainer(name, "parts")
    torch.manual_seed(99)  # the checkpoint's random state counts, not the process's
    resumed.train()
    assert resumed.start_epoch == 1
    expected = whole.model.prompt_learner.state_dict()
    for key, tensor in resumed.model.prompt_learner.state_dict().items():
        assert torch.equal(tensor, expected[key]), key
