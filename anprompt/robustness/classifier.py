"""What the evaluation asks of a model."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from anprompt.robustness.texts import Pools, noisy_prompts, takes_text
from common.errors import UsageError
from noise.cells import Cell

Logits = Callable[[Tensor], Tensor]


class Classifier:
    """A model under test: anything that gives logits for images.

    A model is evaluated in pieces, ``classify(encode(pictures), state)``: what is known of the
    images, what is known of the classes, and the meeting of both. Here the first piece is the
    pictures themselves and the second the whole model; subclasses share more.

    Args:
        logits: module or function, images (B, 3, H, W) with values 0 to 1 -> logits (B, C).
            Normalises inside. A module is put into evaluation mode.
        classnames: C names.
        template: the words of its class prompts, ``{}`` for the name; "" for a model without words.
        with_prompts: C prompts -> a function as ``logits`` of the model with those class prompts.
            Without it there is no text noise.
        scale: of the logits, e.g. CLIP's 100; attacks without scale divide by it.
        device: where ``logits`` wants its images.

    Attributes:
        rules: the inference rules that ``classify`` gives logits under.
        rule: the one that is attacked and reported.
    """

    rules: tuple[str, ...] = ("class",)
    rule = "class"

    def __init__(
        self,
        logits: Logits,
        classnames: Sequence[str],
        *,
        template: str = "",
        with_prompts: Callable[[list[str]], Logits] | None = None,
        scale: float = 1.0,
        device: torch.device | str = "cpu",
    ):
        if isinstance(logits, torch.nn.Module):
            logits.eval()
        self._logits = logits
        self._with_prompts = with_prompts
        self.classnames = list(classnames)
        self.template = template if with_prompts is not None else ""
        self.scale = scale
        self.device = torch.device(device)
        self._states: dict[tuple[str, ...], Any] = {}

    # The pieces

    def encode(self, pictures: Tensor, shared: dict[Any, Any]) -> Any:
        """Return what the logits need of pictures (B, 3, H, W), values 0 to 1; has a gradient.

        Args:
            shared: of the batch; what other models need as well is kept there.
        """
        return pictures.to(self.device)

    def class_state(self) -> Any:
        """Return what the logits need of the classes."""
        return self._logits

    def prompted_state(self, prompts: Sequence[str]) -> Any:
        """Return ``class_state`` for classes described by other prompts."""
        if self._with_prompts is None:
            raise UsageError("this model cannot be given other prompts: with_prompts is missing")
        return self._with_prompts(list(prompts))

    def classify(self, encoded: Any, state: Any) -> dict[str, Tensor]:
        """Return logits (B, C) under each of ``rules``."""
        return {self.rule: state(encoded)}

    def noisy_words(self, rate: float, seed: int) -> contextlib.AbstractContextManager:
        """Return a context inside which the words' embeddings carry noise."""
        raise UsageError("this model has no embeddings of words to put noise on")

    def noisy_tokens(self, rate: float, seed: int) -> contextlib.AbstractContextManager:
        """Return a context inside which the learned tokens carry noise."""
        raise UsageError("this model has no learned tokens to put noise on")

    def similarity(self, prompts: Sequence[str], clean: Sequence[str]) -> Tensor | None:
        """Return the cosines (P,) of prompts and clean ones as an undisturbed text encoder sees
        them; None where there is none.
        """
        return None

    # What follows from them

    @property
    def words(self) -> list[str]:
        """Class names as prompts say them."""
        return [name.replace("_", " ") for name in self.classnames]

    def takes(self, cell: Cell) -> bool:
        """Return whether a cell's noise can be put on this model."""
        if cell.group == "learned" or cell.text_kind == "embed":
            return False
        if cell.text_kind or cell.group == "worst-text":
            return bool(self.template) and takes_text(self.template, self.words, cell)
        return True

    def prompts(self, cell: Cell, pools: Pools) -> list[str]:
        """Return the class prompts under a text cell's noise."""
        return noisy_prompts(self.template, self.words, cell, pools)

    def state_of(self, prompts: Sequence[str]) -> Any:
        """Return ``prompted_state``, made once for each list of prompts."""
        key = tuple(prompts)
        if key not in self._states:
            self._states[key] = self.prompted_state(prompts)
        return self._states[key]

    def logits(self, state: Any) -> Logits:
        """Return the function that attacks see: pictures (B, 3, H, W) -> logits (B, C)."""
        return lambda pictures: self.classify(self.encode(pictures, {}), state)[self.rule]
