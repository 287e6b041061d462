"""List the methods: what each learns, its paper, its original's licence, the protocols it runs in.

    python -m anprompt methods                  all of them
    python -m anprompt methods maple tcp        these

A method is listed once it has a place in configs/trainers; what is said of it is in FACTS in this
command's file.
"""

from __future__ import annotations

from dataclasses import dataclass

from tabulate import tabulate

from anprompt.protocols.methods import ANOMALY, all_methods, find_method
from common.cli import CommandParser

HEADERS = ("method", "scripts", "learns", "paper", "original's licence", "protocols")
PROTOCOL_NAMES = {
    "base2new": "base-to-new",
    "fewshot": "few-shot",
    "crossdata": "cross-dataset, domain generalisation",
}


@dataclass(frozen=True)
class Facts:
    """A method in a few words.

    Attributes:
        learns: what is learned.
        paper: authors, year, address.
        licence: of the code that it follows here; "none" where it has no licence file.
    """

    learns: str
    paper: str
    licence: str


FACTS = {
    "ZeroshotCLIP": Facts(
        "nothing: a hand-written prompt",
        "Radford et al. 2021, https://arxiv.org/abs/2103.00020",
        "MIT",
    ),
    "ZeroshotCLIP2": Facts(
        "nothing: several hand-written prompts averaged",
        "Radford et al. 2021, https://arxiv.org/abs/2103.00020",
        "MIT",
    ),
    "CoOp": Facts("context", "Zhou et al. 2022, https://arxiv.org/abs/2109.01134", "MIT"),
    "CoCoOp": Facts(
        "context shifted by each image", "Zhou et al. 2022, https://arxiv.org/abs/2203.05557", "MIT"
    ),
    "KgCoOp": Facts(
        "context tied to hand-written prompts",
        "Yao et al. 2023, https://arxiv.org/abs/2303.13283",
        "none",
    ),
    "ProGrad": Facts(
        "context, without gradients that oppose zero-shot CLIP",
        "Zhu et al. 2023, https://arxiv.org/abs/2205.14865",
        "MIT",
    ),
    "TCP": Facts(
        "context, and a network that makes tokens of each class",
        "Yao et al. 2024, https://arxiv.org/abs/2311.18231",
        "MIT",
    ),
    "VPT": Facts(
        "tokens in the image tower", "Jia et al. 2022, https://arxiv.org/abs/2203.12119", "MIT"
    ),
    "IVLP": Facts(
        "independent tokens in both towers",
        "Khattak et al. 2023, https://arxiv.org/abs/2210.03117",
        "MIT",
    ),
    "MaPLe": Facts(
        "text tokens, and maps that make image tokens of them",
        "Khattak et al. 2023, https://arxiv.org/abs/2210.03117",
        "MIT",
    ),
    "CoPrompt": Facts(
        "as MaPLe, and an adapter behind each tower, consistent with frozen CLIP",
        "Roy and Etemad 2024, https://arxiv.org/abs/2306.01195",
        "MIT",
    ),
    "PromptSRC": Facts(
        "as IVLP, tied to frozen CLIP, averaged over epochs",
        "Khattak et al. 2023, https://arxiv.org/abs/2307.06948",
        "MIT",
    ),
    "PromptKD": Facts(
        "image tokens and a projection, from a larger teacher and images without labels",
        "Li et al. 2024, https://arxiv.org/abs/2403.02781",
        "Apache-2.0",
    ),
    "MMA": Facts(
        "adapters in upper blocks of both towers, with a shared middle",
        "Yang et al. 2024 (CVPR)",
        "MIT",
    ),
    "CLIPLoRA": Facts(
        "low-rank changes of queries, keys and values",
        "Zanella and Ben Ayed 2024, https://arxiv.org/abs/2405.18541",
        "none",
    ),
    "DePTCoOp": Facts(
        "as CoOp, and a head for base classes; knows base from new",
        "Zhang et al. 2024, https://arxiv.org/abs/2309.07439",
        "GPL-2; from the paper",
    ),
    "DePTKgCoOp": Facts(
        "as KgCoOp, and a head for base classes; knows base from new",
        "Zhang et al. 2024, https://arxiv.org/abs/2309.07439",
        "GPL-2; from the paper",
    ),
    "DePTMaPLe": Facts(
        "as MaPLe, and a head for base classes; knows base from new",
        "Zhang et al. 2024, https://arxiv.org/abs/2309.07439",
        "GPL-2; from the paper",
    ),
    "TipAdapter": Facts(
        "nothing: a cache of training images' features",
        "Zhang et al. 2022, https://arxiv.org/abs/2207.09519",
        "none",
    ),
    "TipAdapterF": Facts(
        "the keys of Tip-Adapter's cache",
        "Zhang et al. 2022, https://arxiv.org/abs/2207.09519",
        "none",
    ),
    "CLIPAdapter": Facts(
        "an adapter of image features",
        "Gao et al. 2021, https://arxiv.org/abs/2110.04544",
        "none",
    ),
    "TaskRes": Facts(
        "a residual of each class's text feature",
        "Yu et al. 2023, https://arxiv.org/abs/2211.10277",
        "MIT",
    ),
    "LinearProbe": Facts(
        "a linear classifier that starts as zero-shot CLIP",
        "Silva-Rodriguez et al. 2024, https://arxiv.org/abs/2312.12730",
        "MIT",
    ),
    "CLAP": Facts(
        "as LinearProbe, held to zero-shot CLIP class by class",
        "Silva-Rodriguez et al. 2024, https://arxiv.org/abs/2312.12730",
        "MIT",
    ),
    "MMRL": Facts(
        "tokens of a shared space, projected into both towers",
        "Guo and Gu 2025, https://arxiv.org/abs/2503.08497",
        "MIT",
    ),
    "MMRLpp": Facts(
        "as MMRL, with fewer parameters and tokens that interact",
        "Guo and Gu 2025, https://arxiv.org/abs/2505.10088",
        "MIT",
    ),
    "AnomalyZeroShot": Facts(
        "nothing: words for normal and damaged objects",
        "after Jeong et al. 2023, https://arxiv.org/abs/2303.14814",
        "no official code",
    ),
    "AnomalyMemory": Facts(
        "nothing: a memory of normal patches",
        "after Roth et al. 2022 (CVPR), PatchCore",
        "Apache-2.0",
    ),
    "AnomalyFusion": Facts(
        "nothing: those words and that memory together",
        "after Jeong et al. 2023, https://arxiv.org/abs/2303.14814",
        "no official code",
    ),
    "PromptAD": Facts(
        "contexts for normal and anomalous objects, from normal images",
        "Li et al. 2024, https://arxiv.org/abs/2404.05231",
        "Unlicense",
    ),
    "AnomalyAPT": Facts(
        "such contexts from made anomalies, guided by a meta prompt; a reconstruction",
        "https://arxiv.org/abs/2508.16157",
        "not public",
    ),
    "ANPrompt": Facts(
        "as MMRL, with noise prompts",
        "https://arxiv.org/abs/2508.04677",
        "not recorded",
    ),
    **dict.fromkeys(
        ("AdvCoOp", "AdvVPT", "AdvIVLP", "AdvMaPLe"),
        Facts(
            "as the method without Adv, on images attacked in training",
            "https://github.com/xinwong/Multimodal-Adversarial-Prompt-Tuning",
            "MIT",
        ),
    ),
    "AdvANPrompt": Facts("as ANPrompt, on images attacked in training", "this project's own", "-"),
    "FAP": Facts(
        "image tokens, and maps that make text tokens of them, on attacked images",
        "Zhou et al. 2024, https://arxiv.org/abs/2403.14774",
        "MIT",
    ),
    "NAPTuning": Facts(
        "as MaPLe, with networks that refine tokens, on attacked images; reconstructed",
        "Zhang et al. 2025, https://arxiv.org/abs/2506.12706",
        "not recorded",
    ),
}


def rows(names: list[str]) -> list[list[str]]:
    """Return a line of the list for each method.

    Args:
        names: of methods, as scripts and sweeps take them; empty for all.

    Raises:
        UsageError: there is no such method.
    """
    found = []
    asked = dict.fromkeys(find_method(name, task="") for name in names)
    for method in asked or all_methods(task=""):
        facts = FACTS.get(method.trainer, Facts("", "", ""))
        protocols = ", ".join(text for key, text in PROTOCOL_NAMES.items() if key in method.rules)
        if method.task == ANOMALY:
            protocols = "anomaly detection"
        found.append(
            [method.trainer, method.name, facts.learns, facts.paper, facts.licence]
            + [protocols or "all"]
        )
    return found


def main(argv: list[str] | None = None) -> int:
    """Print the list."""
    parser = CommandParser(description=__doc__, prog="anprompt methods")
    parser.add_argument("names", nargs="*", metavar="METHOD", help="only these")
    print(tabulate(rows(parser.parse_args(argv).names), HEADERS, tablefmt="simple"))
    return 0
