"""Evaluation under noise (``anprompt robustness``); docs/ROBUSTNESS.md explains it.

- ``plan``: which noise, at which severities, with which seeds: the cells of the table;
- ``images`` and ``texts``: test images and prompts under noise;
- ``subjects``: the trained models under test;
- ``measure``: runs the plan;
- ``store``: robustness.json;
- ``summary``: what its cells add up to, read by the command's table and by the report.
"""
