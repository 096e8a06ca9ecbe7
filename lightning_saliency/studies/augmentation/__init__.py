"""Augmentations compared by fine-tuning."""
