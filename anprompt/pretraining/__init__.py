"""What the bundled small CLIP is pretrained on, and how."""
