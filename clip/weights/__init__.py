"""From a backbone's name to its weights.

``names`` says what a name means and where its file is, ``hub`` downloads, ``configs`` reads what is
written about a model, ``files`` reads tensors and ``layouts`` brings them to OpenAI's names.
``names`` does not need PyTorch.
"""
