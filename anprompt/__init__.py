"""Runs, protocols, sweeps, tables, the report, and evaluation under noise."""

__version__ = "0.2.0"
