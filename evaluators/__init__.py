"""A live model and example ids in, one score per example out."""
