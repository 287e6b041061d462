"""What the authors' programs run with, beside the configurations that the protocols choose here.

``tests/golden/upstream_settings.json`` says what is in force once a program's script, its files and
its own code have had their say, by data set and number of images a class, under the names that the
settings have here. Where upstream has no script for a protocol, nothing is recorded.
"""

import functools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from anprompt.commands.sweep import make_parser as make_sweep_parser
from anprompt.protocols.methods import find_method, own_backbone
from anprompt.protocols.plan import DATASETS, IMAGENET_VARIANTS, PROTOCOLS, run_spec
from anprompt.results.comparable import NODES_WITHOUT_FP16
from anprompt.runs.arguments import make_parser
from anprompt.runs.config import build_cfg
from dassl.engine import TRAINER_REGISTRY
from datasets.templates import IMAGENET_TEMPLATES_SELECT
from trainers import kgcoop, prograd, promptkd, tcp
from trainers.base import ClassPrompts, prompt_template, setting_for

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "upstream_settings.json"
RECORDED = json.loads(GOLDEN.read_text(encoding="utf-8"))
METHODS = RECORDED["methods"]
SHOTS = "DATASET.NUM_SHOTS"


@dataclass(frozen=True)
class Different:
    """A setting that is another here, and why.

    Attributes:
        methods, protocols: whose; no protocols: all.
        ours: its value here.
    """

    methods: str
    setting: str
    ours: object
    why: str
    protocols: str = ""

    def is_of(self, run: "Run", setting: str) -> bool:
        """Return whether a setting of a run is meant."""
        return (
            setting == self.setting
            and run.method in self.methods.split()
            and (not self.protocols or run.protocol in self.protocols.split())
        )


CROPS = ["random_resized_crop", "random_flip", "normalize"]
DIFFERENT = [
    # Said in the method's files, in docs/PROTOCOLS.md or at the top of docs/RESULTS.md.
    Different(
        "prograd taskres tipadapter tipadapterf", "MODEL.BACKBONE.NAME", "ViT-B/16",
        "the backbone of the other methods", protocols="base2new fewshot",
    ),
    Different("prograd", SHOTS, 16, "as all methods", protocols="base2new"),
    Different("kgcoop", SHOTS, 16, "as all methods", protocols="crossdata"),
    Different("coprompt", "INPUT.TRANSFORMS", CROPS, "the crops and flips of the other methods"),
    Different(
        "promptkd", "TEST.FINAL_MODEL", "last_step", "theirs is chosen by images that are tested"
    ),
    Different(
        "promptkd", SHOTS, 16, "its teacher's images; the student has all without their labels"
    ),
    Different(
        "promptkd", "DATASET.SUBSAMPLE_CLASSES", "base",
        "its teacher's classes; the student has images of all", protocols="base2new",
    ),
]  # fmt: skip
READS_BLANKS = {"clap", "linearprobe", "taskres"}  # for underscores in names: docs/FEATURES.md


@dataclass(frozen=True)
class Run:
    """A training of an author's program."""

    method: str
    protocol: str
    dataset: str
    shots: int
    settings: dict

    @property
    def own_shots(self) -> int:
        """The images a class that the protocol has here, nearest to the author's."""
        usual = PROTOCOLS[self.protocol].shots
        return self.shots if self.shots in usual else usual[-1]


def recorded_runs(method: str, protocol: str) -> Iterator[Run]:
    record = METHODS[method]
    of_protocol = record["protocols"][protocol]
    for group in of_protocol["groups"]:
        parts = (record, of_protocol, group)
        settings = dict(RECORDED["usual"])
        for part in parts:
            settings |= part.get("settings", {})
        for name in settings.pop("nothing of", "").split():
            settings.pop(name, None)
        named = group.get("datasets", " ".join(DATASETS))
        excluded = named.removeprefix("all but ").split() if named.startswith("all but ") else []
        for dataset in DATASETS if excluded else named.split():
            for shots in group["shots"] if dataset not in excluded else []:
                yield Run(method, protocol, dataset, shots, {**settings, SHOTS: shots})


@functools.cache
def cfg_of(name: str, protocol: str, dataset: str, shots: int):
    """The configuration that a protocol's training takes here, on the backbone that it names."""
    method = find_method(name)
    spec = run_spec(protocol, "train", method, dataset, dataset, 1, shots)
    backbone = own_backbone(spec.config_file)
    spec = run_spec(protocol, "train", method, dataset, dataset, 1, shots, backbone=backbone)
    return build_cfg(make_parser().parse_args(spec.argv("output", root="data")))


def value_of(cfg, name: str):
    """What a setting comes to in a run: also where it is by data set, or a product of two."""
    if " x " in name:
        return math.prod(value_of(cfg, part) for part in name.split(" x "))
    if name == promptkd.TEACHER_NAME:
        return promptkd.teacher_name(cfg)
    *nodes, key = name.split(".")
    node = functools.reduce(lambda above, inner: above[inner], nodes, cfg)
    table = node.get(f"{key}_BY_DATASET")
    value = node[key] if table is None else setting_for(cfg.DATASET.NAME, node[key], table)
    return list(value) if isinstance(value, tuple) else value


PAIRS = [
    (method, protocol) for method, record in METHODS.items() for protocol in record["protocols"]
]


@pytest.mark.parametrize(("method", "protocol"), PAIRS)
def test_settings_are_those_that_the_authors_program_runs_with(method, protocol):
    wrong = set()
    for run in recorded_runs(method, protocol):
        cfg = cfg_of(method, protocol, run.dataset, run.own_shots)
        for name, theirs in run.settings.items():
            known = [one.ours for one in DIFFERENT if one.is_of(run, name)]
            ours = value_of(cfg, name)
            if ours != (known or [theirs])[0]:
                wrong.add(f"{name} on {run.dataset}, {run.shots} shots: {ours}, theirs {theirs}")
    assert not wrong, "\n".join(sorted(wrong))


def test_what_is_said_to_be_different_is():
    """Of each line of the table, on every data set that it is about."""
    runs = [run for pair in PAIRS for run in recorded_runs(*pair)]
    for one in DIFFERENT:
        about = [run for run in runs if one.is_of(run, one.setting)]
        assert {run.method for run in about} == set(one.methods.split()), one
        assert all(run.settings[one.setting] != one.ours for run in about), one


def test_seeds_and_numbers_of_shots_are_the_authors():
    seeds = make_sweep_parser().parse_args(["base2new"]).seeds
    assert {tuple(record["seeds"]) for record in METHODS.values()} == {(1, 2, 3), (1,)}
    assert seeds == "1,2,3"
    of_fewshot = {
        run.shots for pair in PAIRS if pair[1] == "fewshot" for run in recorded_runs(*pair)
    }
    assert sorted(of_fewshot) == list(PROTOCOLS["fewshot"].shots)


def test_trainings_of_all_data_sets_are_recorded():
    for pair in PAIRS:
        datasets = {run.dataset for run in recorded_runs(*pair)}
        if pair[1] != "crossdata":
            assert datasets == set(DATASETS), pair
        elif pair[0] != "promptkd":  # whose students learn on the targets
            assert datasets == {"imagenet"}, pair


def trainer_of(method: str):
    return TRAINER_REGISTRY.get(find_method(method).trainer)


def guide_of(module):
    """How a method that has hand-written prompts of its own chooses one."""

    def choose(cfg) -> str:
        own = getattr(module, "OWN_TEMPLATES", None) or module.HAND_WRITTEN
        return prompt_template(cfg, own.get(cfg.DATASET.NAME, ""))

    return choose


PROMPTS = {
    "zsclip": trainer_of("zsclip").fixed_template,
    "prograd": prograd.hand_written,
    "kgcoop": guide_of(kgcoop),
    "deptkgcoop": guide_of(kgcoop),
    "tcp": guide_of(tcp),
    "tcp after its context": tcp.TCP.fixed_template,
    "mmrl": trainer_of("mmrl").fixed_template,
    "mmrlpp": trainer_of("mmrlpp").fixed_template,
    "taskres": prompt_template,
    "clap": prompt_template,
    "tipadapter": prompt_template,
    "cliplora": trainer_of("cliplora").fixed_template,
}


@pytest.mark.parametrize("name", RECORDED["prompts"])
def test_hand_written_prompts_are_the_authors(name):
    """Recorded where they are others than those of zero-shot CLIP."""
    theirs = RECORDED["prompts"]["zsclip"] | RECORDED["prompts"][name]
    for dataset in [*DATASETS, *IMAGENET_VARIANTS]:
        cfg = cfg_of(name.split()[0], "fewshot", dataset, 16)
        assert PROMPTS[name](cfg) == theirs.pop(cfg.DATASET.NAME), dataset
    assert not theirs


@pytest.mark.parametrize("method", RECORDED["wordings on ImageNet"])
def test_wordings_of_a_class_of_imagenet(method):
    trainer, cfg = trainer_of(method), cfg_of(method, "fewshot", "imagenet", 16)
    assert trainer.has_several_wordings(cfg)
    count = len(IMAGENET_TEMPLATES_SELECT) + trainer.own_words
    assert count == RECORDED["wordings on ImageNet"][method]


def test_last_incomplete_batches():
    keep = {method for method in METHODS if trainer_of(method).keeps_last}
    theirs = set(RECORDED["last incomplete batch is used"])
    assert keep - {"tipadapter"} == theirs  # tipadapter trains nothing


def test_class_names_have_blanks_in_place_of_underscores():
    assert ClassPrompts("{}", ["sea_lake"]).texts == ("sea lake",)
    assert set(RECORDED["underscores stay in class names"]) == READS_BLANKS


def test_fp16_that_is_fp32():
    """Of the methods whose configuration says fp16, on a GPU."""
    theirs, ours = set(RECORDED["fp16 is fp32"]), set()
    for method in METHODS:
        cfg, trainer = cfg_of(method, "fewshot", "eurosat", 16), trainer_of(method)
        if trainer.settings_of(cfg).PREC == "fp16":
            ours |= {method} if trainer.precision_of(cfg, torch.device("cuda")) == "fp32" else set()
    assert ours == theirs
    nodes = {trainer_of(method).method for method in ours}
    assert nodes == set(NODES_WITHOUT_FP16)
