"""Configuration files and flags as upstream's repositories write them."""

from pathlib import Path

import pytest

from anprompt.protocols.methods import find_method
from anprompt.runs.arguments import make_parser
from anprompt.runs.config import build_cfg
from common.errors import UsageError
from trainers.base import setting_for

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cfg_of(tmp_path):
    def make(trainer: str, *options: str, node: str = "", yaml: str = "", dataset: str = "eurosat"):
        flags = ["--trainer", trainer, "--backbone", "small", "--output-dir", str(tmp_path / "run")]
        flags += ["--dataset-config-file", str(ROOT / f"configs/datasets/{dataset}.yaml")]
        if yaml:
            path = tmp_path / "upstream.yaml"
            path.write_text(f"TRAINER:\n  {node}:\n    {yaml}\n")
            flags += ["--config-file", str(path)]
        return build_cfg(make_parser().parse_args([*flags, *options]))

    return make


def test_kgcoops_switch_means_the_words(cfg_of, caplog):
    yaml = "N_CTX: 4\n    CTX_INIT: True\n    ALPHA: 0.5\n    W: 8.0"
    with caplog.at_level("INFO"):
        cfg = cfg_of("KgCoOp", node="COOP", yaml=yaml)
    assert cfg.TRAINER.COOP.CTX_INIT == "a photo of a"
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and "TRAINER.COOP.ALPHA has no effect" in said[0]
    assert cfg_of("KgCoOp", "TRAINER.COOP.CTX_INIT", "True").TRAINER.COOP.CTX_INIT == "a photo of a"


def mmrl_values(cfg) -> tuple[float, float]:
    node, dataset = cfg.TRAINER.MMRL, cfg.DATASET.NAME
    return (
        setting_for(dataset, node.REG_WEIGHT, node.REG_WEIGHT_BY_DATASET),
        setting_for(dataset, node.REP_DIM, node.REP_DIM_BY_DATASET),
    )


def test_mmrls_values_by_data_set_apply_whichever_file_is_used(cfg_of):
    """Its code puts them in the place of its file's; only the command line goes before them."""
    yaml = "REG_WEIGHT: 1.0\n    REP_DIM: 512"
    ours = str(ROOT / "configs/trainers/MMRL/vit_b16.yaml")
    for cfg in (
        cfg_of("MMRL", node="MMRL", yaml=yaml),
        cfg_of("MMRL"),
        cfg_of("MMRL", "--config-file", ours),
    ):
        assert mmrl_values(cfg) == (0.01, 2048)
    assert mmrl_values(cfg_of("MMRL", node="MMRL", yaml=yaml, dataset="shapes")) == (1.0, 512)
    options = ("TRAINER.MMRL.REG_WEIGHT", "0.2", "TRAINER.MMRL.REP_DIM", "512")
    assert mmrl_values(cfg_of("MMRL", *options, node="MMRL", yaml=yaml)) == (0.2, 512)
    cross = str(ROOT / "configs/trainers/MMRL/vit_b16_cross_datasets.yaml")
    assert mmrl_values(cfg_of("MMRL", "--config-file", cross)) == (0.2, 512)
    few = str(ROOT / "configs/trainers/MMRL/vit_b16_few_shot.yaml")
    assert mmrl_values(cfg_of("MMRL", "--config-file", few)) == (0.01, 2048)
    assert mmrl_values(cfg_of("MMRL", "--config-file", few, dataset="shapes")) == (0.5, 512)


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("imagenet", (12, 4, 8.0, 8)),
        ("caltech101", (12, 4, 4.0, 8)),
        ("oxford_pets", (12, 2, 0.1, 8)),
        ("stanford_cars", (12, 4, 4.0, 8)),
        ("oxford_flowers", (9, 4, 8.0, 8)),
        ("food101", (9, 4, 0.5, 5)),
        ("fgvc_aircraft", (9, 4, 2.0, 8)),
        ("sun397", (12, 4, 8.0, 8)),
        ("dtd", (12, 2, 8.0, 8)),
        ("eurosat", (12, 2, 0.1, 8)),
        ("ucf101", (12, 4, 2.0, 8)),
        ("shapes", (9, 2, 1.0, 8)),
    ],
)
@pytest.mark.parametrize("protocol", ["base2new", "crossdata", "fewshot"])
def test_coprompts_values_are_those_that_its_code_sets_by_data_set(
    cfg_of, protocol, dataset, expected
):
    """Layers, tokens, weight and epochs; whatever its file says."""
    name = find_method("coprompt").config(protocol, dataset, 16)
    file = str(ROOT / f"configs/trainers/CoPrompt/{name}.yaml")
    cfg = cfg_of("CoPrompt", "--config-file", file, dataset=dataset)
    node = cfg.TRAINER.COPROMPT
    assert expected == (node.PROMPT_DEPTH, node.N_CTX, node.W, cfg.OPTIM.MAX_EPOCH)


def test_flags_and_files_that_do_nothing_there_either(cfg_of, caplog):
    with caplog.at_level("INFO"):
        cfg_of("MMRL", "--train-epoch", "5", "TASK", "B2N")
    assert [record.getMessage()[:29] for record in caplog.records] == [
        "--train-epoch has no effect, "
    ]
    wrong = "configs/trainers/PromptSRC/vit_b16_c2_ep5_batch4_4+4ctx_cross_datasets.yaml"
    with pytest.raises(
        UsageError, match=r"nearest in .*: vit_b16_c2_ep20_batch4_4\+4ctx_cross_datasets,"
    ):
        cfg_of("PromptSRC", "--config-file", str(ROOT / wrong))


def test_images_are_clips_where_a_file_does_not_say(cfg_of):
    assert cfg_of("CoOp").INPUT.PIXEL_MEAN == [0.48145466, 0.4578275, 0.40821073]
    assert cfg_of("CoOp").INPUT.PIXEL_STD == [0.26862954, 0.26130258, 0.27577711]


def test_a_trainer_of_another_name_upstream(cfg_of, caplog):
    with caplog.at_level("INFO"):
        cfg = cfg_of("MultiModalAdapter", "--config-file", PUBLISHED.format("vit_b16_ep5"))
    assert cfg.TRAINER.NAME == "MMA" and cfg.OPTIM.LR == 0.0015
    assert "MultiModalAdapter is called MMA here" in caplog.text
    with pytest.raises(UsageError, match="no such config file: .*MultiModalAdapter/vit_b16_ep9"):
        cfg_of("MultiModalAdapter", "--config-file", PUBLISHED.format("vit_b16_ep9"))


@pytest.mark.parametrize("host", ["CoOp", "KgCoOp", "MaPLe"])
def test_dept_is_known_by_its_authors_name(host, cfg_of):
    assert f"DePT{host}" == cfg_of(f"ExtrasLinearProbe{host}").TRAINER.NAME


PUBLISHED = str(ROOT / "configs/trainers/MultiModalAdapter/{}.yaml")
CONTEXT = "TRAINER.COOP.N_CTX 4 TRAINER.COOP.CSC False TRAINER.COOP.CLASS_TOKEN_POSITION end"
LINES = {  # trainer, configuration and options as the scripts of its repository give them
    "CoOp rn50_ep50": CONTEXT,
    "CoOp vit_b16_ctxv1": "",
    "ZeroshotCLIP vit_b16": "CoOp",
    "CoCoOp vit_b16_c4_ep10_batch1_ctxv1": "",
    "MaPLe vit_b16_c2_ep5_batch4_2ctx": "",
    "MaPLe vit_b16_c2_ep5_batch4_2ctx_cross_datasets": "",
    "VPT vit_b16_c2_ep5_batch4_4": "",
    "IVLP vit_b16_c2_ep5_batch4_2+2ctx": "",
    "IVLP vit_b16_c2_ep5_batch4_4ctx_language_only": "",
    "PromptSRC vit_b16_c2_ep20_batch4_4+4ctx": "",
    "PromptSRC vit_b16_c2_ep50_batch4_4+4ctx_few_shot": "",
    "KgCoOp vit_b16_ep100_ctxv1": f"{CONTEXT} TRAINER.COOP.W 8.0",
    "TCP vit_b16_ep100_ctxv1": f"{CONTEXT} TRAINER.COOP.W 1.0",
    "ProGrad rn50_ep100": f"LOSS.LAMBDA 1.0 {CONTEXT}",
    "MMRL vit_b16": "TASK B2N",
    "MMRL vit_b16_imagenet": "TASK FS",
    "MMRLpp vit_b16_cross_datasets": "TASK CD",
    "MultiModalAdapter vit_b16_ep5_imnet": "",
}


@pytest.mark.parametrize("line", LINES, ids=str)
def test_published_commands_find_their_configuration(cfg_of, line):
    """One line a kind of those that the scripts of the repositories make."""
    trainer, config = line.split()
    options = LINES[line].split()
    folder = options.pop(0) if options[:1] == ["CoOp"] else trainer
    file = str(ROOT / f"configs/trainers/{folder}/{config}.yaml")
    for more in ([], ["--eval-only", "--model-dir", "models", "--load-epoch", "5"]):
        cfg = cfg_of(trainer, "--config-file", file, *more, *options, "DATASET.NUM_SHOTS", "16")
        assert cfg.OPTIM.MAX_EPOCH >= 1 and cfg.DATASET.NUM_SHOTS == 16
