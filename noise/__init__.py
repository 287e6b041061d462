"""Perturbations of text and of images: pure, seeded by content, and knowing no method or data set.

ANPrompt trains with them and the robustness evaluation measures with them, from the same functions.

- ``noise.seeding``: the same random numbers for an image or class, whoever asks and in any order;
- ``noise.text``: perturbed prompts (characters, words, template, description);
- ``noise.embeddings``: Gaussian noise on token embeddings;
- ``noise.descriptions``: reading class descriptions;
- ``noise.image``: corruptions of PIL images at five severities;
- ``noise.adversarial``: PGD in pixel space;
- ``noise.measures``: what a robustness table reports.

docs/NOISE.md has the tables of kinds and parameters.
"""
