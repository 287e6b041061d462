"""Sweeps: which runs a table needs, which of them are finished, and running the others."""
