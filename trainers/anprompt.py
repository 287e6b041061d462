"""ANPrompt: prompts that carry weak semantic noise, so that the tuned CLIP is robust to it.

The skeleton is MMRL's (``trainers/mmrl.py``): learned tokens in a shared space, projected into the
deeper layers of both frozen towers. Added here, in the order of docs/METHOD.md:

1. frozen text features are fused with features of weakly perturbed texts;
2. their clusters, the *noise prompts*, join the learned tokens;
3. the averaged visual token outputs are a prototype, NRVPP, with logits of its own;
4. WALoss ties the prediction from perturbed text to the clean one.

Marks: [P] the paper's abstracts, [A] the authors' public repository, [O] our own choice.

References:
    [0] Anti-noise Prompt Tuning for Vision-Language Models, 2025, https://arxiv.org/abs/2508.04677
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import threadpoolctl
import torch
import torch.nn.functional as F
from torch import Tensor

import clip
from clip.text import encode_embeddings, end_positions
from common.errors import UsageError
from common.late_import import import_late
from common.settings import Setting, declare_added
from dassl.engine import TRAINER_REGISTRY
from datasets.templates import IMAGENET_TEMPLATES
from noise.descriptions import load_descriptions
from noise.embeddings import content_mask, perturb_embeddings
from noise.text import TEXT_KINDS, perturbed_texts, sample_kinds
from noise.torch_seeding import torch_generator_for

from .base import ClassPrompts, Loss, TrainingBatch, require_vit, setting_for
from .mmrl import (
    INFERENCE,
    WEIGHT,
    InferenceRule,
    RepresentationCLIP,
    RepresentationLearner,
    RepresentationTrainer,
    layers_setting,
    mmrl_loss,
)
from .settings import by_dataset, count, declare_method, precision

logger = logging.getLogger(__name__)

TEXTS_AT_ONCE = 256


# 1. Weak-noise frozen text features ------------------------------------------------------------


@torch.no_grad()
def noisy_text_features(
    clip_model: clip.model.CLIP,
    prompts: ClassPrompts,
    clean: Tensor,
    *,
    weight: float,
    kinds: list[str],
    rate: float,
    samples: int,
    seed: int,
    descriptions: dict[str, list[str]] | None = None,
) -> Tensor:
    """Return w_c = norm((1 - weight) t_c + weight t~_c), t~_c = norm(mean_k norm(g0(T~_k(c)))). [P]

    Args:
        prompts: class names c and the template T.
        clean: t (C, E), normalised features of the unperturbed prompts.
        weight: lambda in [0, 1]. [O: the value]
        kinds, rate, samples, seed, descriptions: the perturbations, see ``noise.text``. [O]

    Returns:
        (C, E) normalised, fp32.
    """
    if weight == 0:
        return clean
    names = list(prompts.classnames)
    texts = perturbed_texts(
        names,
        prompts.template,
        kinds,
        rate,
        samples,
        seed,
        descriptions=descriptions,
        templates=IMAGENET_TEMPLATES,
    )
    device = clip_model.positional_embedding.device
    features = []
    for k, kind in enumerate(sample_kinds(kinds, samples)):
        tokens = clip.tokenize([of_class[k] for of_class in texts], truncate=True).to(device)
        embeddings = clip_model.token_embedding(tokens)
        if kind == "embed":
            generators = [torch_generator_for(seed, "embed", name, k) for name in names]
            embeddings = perturb_embeddings(embeddings, rate, generators, content_mask(tokens))
        pieces = zip(
            embeddings.split(TEXTS_AT_ONCE), end_positions(tokens).split(TEXTS_AT_ONCE), strict=True
        )
        encoded = torch.cat([encode_embeddings(clip_model, *piece) for piece in pieces])
        features.append(F.normalize(encoded.float(), dim=-1))
    perturbed = F.normalize(torch.stack(features).mean(dim=0), dim=-1)  # t~ (C, E)
    return F.normalize((1 - weight) * clean + weight * perturbed, dim=-1)


# 2. Noise prompts ------------------------------------------------------------------------------


def cluster_noise_prompts(noisy_text: Tensor, n_tokens: int, seed: int = 0) -> Tensor:
    """Return normalised k-means centroids of the noisy text features.  [P]

    With fewer distinct classes than tokens, centroids repeat with a small seeded jitter, so that
    all rows differ. [O]

    Args:
        noisy_text: w (C, E).
        n_tokens: N.

    Returns:
        n (N, E), fp32, on the device of ``noisy_text``.
    """
    points = noisy_text.detach().double().cpu().numpy()
    clusters = min(n_tokens, len(np.unique(points, axis=0)))
    # One thread: sums over several would differ in the last bit from run to run.
    with threadpoolctl.threadpool_limits(1):
        KMeans = import_late("sklearn.cluster").KMeans
        centroids = KMeans(clusters, n_init=10, random_state=seed).fit(points).cluster_centers_
    rows = centroids[np.arange(n_tokens) % clusters]
    jitter = np.random.default_rng(seed).normal(scale=0.01, size=rows.shape)
    jitter[:clusters] = 0
    rows = torch.from_numpy(rows + jitter * np.linalg.norm(rows, axis=1, keepdims=True))
    return F.normalize(rows, dim=-1).float().to(noisy_text.device)


# 3. Anti-noise prompts -------------------------------------------------------------------------


class AntiNoisePromptLearner(RepresentationLearner):
    """P = R + n: learned tokens R (N, E) plus fixed noise prompts n (N, E), which the checkpoint
    keeps.

    The shared space is CLIP's joint space, where the noise prompts live.
    """

    noise_prompts: Tensor

    def __init__(self, clip_model: clip.model.CLIP, settings: Any, width: int | None = None):
        width = width or clip_model.visual.output_dim
        super().__init__(
            clip_model,
            settings.N_TOKENS,
            list(settings.LAYERS),
            width,
            proj_init=settings.PROJ_INIT,
            beta=settings.BETA,
        )
        self.register_buffer("noise_prompts", torch.zeros_like(self.tokens))  # n

    def shared_tokens(self) -> Tensor:
        return self.tokens + self.noise_prompts


# 4. and 5. Injection, features and logits: RepresentationCLIP.  6. Loss -------------------------


def wa_loss(*, z_noisy: Tensor, z: Tensor) -> Tensor:
    """Return the variance-adaptive consistency of two predictions.  [A]

    KL(softmax(z_noisy) || softmax(z)) / ((std(z) + 1e-6) B C).

    Args:
        z_noisy: tau r w^T (B, C), prediction from perturbed text.
        z: class logits (B, C).

    Returns:
        Scalar, fp32. The KL divergence is summed over batch and classes before it is divided: fp16
        does not hold std(z) B C of a large batch.
    """
    z_noisy, z = z_noisy.float(), z.float()
    divergence = F.kl_div(
        z.log_softmax(dim=-1), z_noisy.log_softmax(dim=-1), reduction="sum", log_target=True
    )
    return divergence / ((z.std() + 1e-6) * z.numel())


class AntiNoiseCLIP(RepresentationCLIP):
    """RepresentationCLIP with noise prompts and ANPrompt's loss.

    Args:
        settings: the method's settings.
        sim_weight: lambda_sim of this data set.
    """

    noisy_text: Tensor  # w (C, E), once training is prepared

    def __init__(
        self,
        clip_model: clip.model.CLIP,
        learner: AntiNoisePromptLearner,
        prompts: ClassPrompts,
        *,
        settings: Any,
        sim_weight: float,
        inference: InferenceRule,
    ):
        super().__init__(clip_model, learner, prompts, alpha=settings.ALPHA, inference=inference)
        self.settings = settings
        self.sim_weight = sim_weight
        self.register_buffer("noisy_text", None, persistent=False)

    def prepare_training(self) -> None:
        """Make w from the classes trained on and, unless a checkpoint brought them, the noise
        prompts.

        Evaluation never calls this, so class names under test leave no trace in the noise prompts.
        [O]
        """
        noise = self.settings.NOISE
        descriptions = (
            load_descriptions(noise.DESCRIPTIONS, "TRAINER.ANPROMPT.NOISE.DESCRIPTIONS")
            if noise.DESCRIPTIONS
            else None
        )
        self.noisy_text = noisy_text_features(
            self.clip,
            self.prompts,
            self.frozen_text_features,
            weight=noise.WEIGHT,
            kinds=list(noise.KINDS),
            rate=noise.RATE,
            samples=noise.SAMPLES,
            seed=noise.SEED,
            descriptions=descriptions,
        )
        learner = self.prompt_learner
        is_made = bool(learner.noise_prompts.any())  # of length 1 each, where they are
        if noise.PROMPTS and not is_made:
            prompts = cluster_noise_prompts(self.noisy_text, len(learner.tokens), noise.SEED)
            learner.noise_prompts.copy_(prompts)

    def loss(self, batch: TrainingBatch) -> Loss:
        tau, w, t = self.scale, self.noisy_text, self.frozen_text_features
        s = self.text_features()  # (C, E)
        f, r, f_frozen = self.encode_image(batch.image, with_frozen=True)  # each (B, E)
        z, z_r = tau * f @ s.t(), tau * r @ s.t()  # (B, C)
        terms = mmrl_loss(
            z=z,
            z_rep=z_r,
            label=batch.label,
            f=f,
            f_frozen=f_frozen,
            s=s,
            s_frozen=t,
            alpha=self.alpha,
            reg_weight=self.sim_weight,
        )
        if self.settings.WA_WEIGHT:
            # Its spread is that of all logits, so it looks at the whole batch.
            z_noisy, z_whole = batch.whole(tau * r @ w.t()), batch.whole(z)
            terms["wa"] = self.settings.WA_WEIGHT * wa_loss(z_noisy=z_noisy, z=z_whole)
        return Loss.of(self.mix(z, z_r), **terms)


# 7. Inference: InferenceRule in mmrl.py.  8. Defaults -----------------------------------------


@TRAINER_REGISTRY.register()
class ANPrompt(RepresentationTrainer):
    method = "ANPROMPT"
    model_name = "AntiNoisePromptLearner"

    @staticmethod
    def extend_cfg(cfg: Any) -> None:
        declare_added(cfg)
        training: dict[str, Any] = {"scope": "training"}
        settings = {
            "PREC": precision("amp"),
            "N_TOKENS": count(5, "N, tokens per layer (authors: N_tokens) [A]"),
            "LAYERS": layers_setting(),  # J..L (in_layers) [A]
            "ALPHA": Setting(0.7, "alpha, class against NRVPP logits (s_rl) [A]", ge=0, le=1),
            **by_dataset("SIM_WEIGHT", "lambda_sim (sim_w) [A]", {}, **WEIGHT),
            "WA_WEIGHT": Setting(1.0, "lambda_wa [O]", **WEIGHT),
            "PROJ_INIT": Setting(
                "clip", "start of the NRVPP projection [O]", choices=("clip", "random"), **training
            ),
            "INFERENCE": INFERENCE,  # [A]
            "BETA": Setting(1.0, "share of new tokens against carried ones [A]", ge=0, le=1),
            "NOISE.WEIGHT": Setting(
                0.1, "lambda, share of perturbed text [P], value [O]", ge=0, le=1, **training
            ),
            "NOISE.KINDS": Setting(
                ["char", "word", "template"],
                "kinds of perturbation, in turn [O]",
                choices=tuple(TEXT_KINDS),
                length=(1, 100),
                **training,
            ),
            "NOISE.RATE": Setting(
                0.1, "how much of a text is perturbed [O]", ge=0, le=1, **training
            ),
            "NOISE.SAMPLES": Setting(
                4, "K, perturbed texts per class [O]", ge=1, le=100, **training
            ),
            "NOISE.SEED": Setting(
                0,
                "of the perturbations, apart from the run's seed [O]",
                ge=0,
                le=2**32 - 1,
                **training,
            ),
            "NOISE.PROMPTS": Setting(
                True, "add noise prompts to the learned tokens [P]", **training
            ),
            "NOISE.DESCRIPTIONS": Setting(
                "",
                'JSON {class name: [sentences]} for kind "description"',
                is_file=True,
                **training,
            ),
        }
        declare_method(cfg, "ANPROMPT", settings)

    @classmethod
    def training_noise(cls, cfg: Any) -> tuple[list[str], list[int]]:
        noise = cls.settings_of(cfg).NOISE
        return (list(noise.KINDS), [noise.SEED]) if noise.WEIGHT else ([], [])

    @classmethod
    def check_cfg(cls, cfg: Any) -> None:
        super().check_cfg(cfg)
        noise = cls.settings_of(cfg).NOISE
        if "description" in noise.KINDS and not noise.DESCRIPTIONS:
            raise UsageError(
                "TRAINER.ANPROMPT.NOISE.KINDS has 'description': name the file of descriptions in "
                "TRAINER.ANPROMPT.NOISE.DESCRIPTIONS"
            )

    @classmethod
    def build(cls, cfg: Any, clip_model: clip.model.CLIP, prompts: ClassPrompts) -> AntiNoiseCLIP:
        require_vit(clip_model, "ANPrompt")
        settings, dataset = cls.settings_of(cfg), cfg.DATASET.NAME
        weight = setting_for(dataset, settings.SIM_WEIGHT, settings.SIM_WEIGHT_BY_DATASET)
        logger.info(f"For {dataset}: SIM_WEIGHT {weight:g}")
        return AntiNoiseCLIP(
            clip_model,
            AntiNoisePromptLearner(clip_model, settings),
            prompts,
            settings=settings,
            sim_weight=weight,
            inference=cls.inference_of(cfg),
        )
