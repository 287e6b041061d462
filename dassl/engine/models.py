"""The models of a trainer, with their optimisers and schedules."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from dassl.utils import tolist_if_not
from dassl.utils.integrity import NotFiniteError

Names = str | Sequence[str] | None


class RegisteredModels:
    """Models by name; a model that does not train has neither optimiser nor schedule."""

    def __init__(self) -> None:
        self.models: OrderedDict[str, nn.Module] = OrderedDict()
        self.optims: OrderedDict[str, torch.optim.Optimizer | None] = OrderedDict()
        self.scheds: OrderedDict[str, Any] = OrderedDict()

    def add(
        self, name: str, model: nn.Module, optim: torch.optim.Optimizer | None, sched: Any
    ) -> None:
        """Register a model.

        Raises:
            ValueError: the name is taken.
        """
        if name in self.models:
            raise ValueError(f"a model is already registered as {name!r}")
        self.models[name], self.optims[name], self.scheds[name] = model, optim, sched

    def names(self, names: Names = None) -> list[str]:
        """Return ``names`` as a list after a check that they are registered; by default all.

        Raises:
            ValueError: one is not.
        """
        known = list(self.models)
        if names is None:
            return known
        names = tolist_if_not(names)
        for name in names:
            if name not in known:
                raise ValueError(f"no model is registered as {name!r}; there are {known}")
        return names

    def optimizers(self, names: Names = None) -> Iterator[torch.optim.Optimizer]:
        """Yield the optimisers of the models that have one."""
        for name in self.names(names):
            optim = self.optims[name]
            if optim is not None:
                yield optim

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Return what trains, each tensor once, with its dotted name."""
        found = {
            id(parameter): (f"{name}.{key}", parameter)
            for name, model in self.models.items()
            for key, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        return list(found.values())

    def check_finite(self, where: str) -> None:
        """Look at all learned values; a GPU is waited for once.

        Args:
            where: what messages say about the moment.

        Raises:
            NotFiniteError: names a learned tensor with NaN or infinities in it.
        """
        found = self.parameters()
        if not found:
            return
        flags = [torch.isfinite(parameter.detach()).all() for _, parameter in found]
        device = flags[0].device
        if bool(torch.stack([flag.to(device) for flag in flags]).all()):
            return
        name = next(name for (name, _), flag in zip(found, flags, strict=True) if not flag)
        raise NotFiniteError(
            f"{where}: learned tensor {name} is infinite or NaN after the epoch's last step; "
            "nothing of this epoch is kept. Lower OPTIM.LR or look at the other OPTIM settings"
        )
