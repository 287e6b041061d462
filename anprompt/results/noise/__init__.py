"""Figures under noise: what robustness.json files hold, and what their cells add up to.

All figures are in percent. A mean gives every kind of noise the same weight, and within a kind
every severity; seeds are averaged first. Nothing here needs torch.

- ``files``: what the files hold, checked; ``cells``: which cells count, and means over them;
- ``compare``: evaluations by what can be compared, and by method;
- ``tables`` and ``imagenet_c``: their tables.
"""
