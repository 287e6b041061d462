"""What the methods for anomaly detection share: model, trainer, words, synthetic anomalies.

They learn from normal images of one category and answer with a score for an image and a map of
scores for its pixels. docs/ANOMALY.md says what of it is published and what is a choice of ours.
"""
