"""Evaluation protocols as data: which runs, in which folders, with which settings."""
