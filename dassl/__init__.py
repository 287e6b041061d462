"""The Dassl API that CoOp-family trainers and data sets are written against, on current PyTorch.

Dassl.pytorch (https://github.com/KaiyangZhou/Dassl.pytorch, Zhou et al., "Domain Adaptive Ensemble
Learning", 2021) is the training loop underneath CoOp and its descendants. It is not on PyPI and
does not run on current PyTorch, so this package provides the part of it that those repositories
use, under the same import names and with the same results: configuration, data loading, the trainer
classes, optimisers and schedules, evaluation, and utilities. It is an independent implementation.

What differs from Dassl 0.6.3, on purpose:

* a run that was killed continues exactly where its last finished epoch ended (weights, optimiser,
  schedule, gradient scaler, random states), so it ends with the numbers of an undisturbed run;
* checkpoints hold tensors and plain numbers only, load with ``weights_only=True``, and appear under
  their name only when complete;
* data workers live through the whole training and draw no random numbers of their own: what happens
  to an image depends on a seed drawn per sample in the main process, not on the number of workers;
* wrong input ends in one :class:`dassl.utils.UsageError` that says what, where and how to mend it;
* a test leaves ``results.json`` beside the log.

Domain adaptation, domain generalisation and semi-supervised trainers are not part of it.
"""

# The version of the API that is provided.
__version__ = "0.6.3"
