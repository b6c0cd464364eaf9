"""A trial's parameters in, a recipe out."""
