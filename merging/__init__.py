"""Checkpoints and a recipe in, merged tensors out."""
