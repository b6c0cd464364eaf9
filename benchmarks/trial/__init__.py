"""What a trial costs, beside its forward passes, lm-eval's own model and the incumbent's way of doing it."""
