"""Perturb text and images: pure functions, seeded by content, that know no method or data set.

ANPrompt trains with them and the robustness evaluation measures with them, from the same functions.

- ``noise.seeding``: the same random numbers for an image or class, whoever asks and in any order;
- ``noise.text``: perturbed prompts (characters, words, template, description);
- ``noise.embeddings``: Gaussian noise on token embeddings;
- ``noise.descriptions``: reading class descriptions;
- ``noise.image``: this project's corruptions of PIL images at five severities;
- ``noise.imagenet_c``: ImageNet-C's, made in memory; ``noise.corruptions`` has its operations;
- ``noise.adversarial``: PGD in pixel space;
- ``noise.metrics``: what a robustness table reports.

docs/NOISE.md has the tables of kinds and parameters.
"""
