"""One run: its configuration, its folder, and the trained model rebuilt from it."""
