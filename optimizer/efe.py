"""What a search is charged in: example-forward-equivalents (EFE)."""

SCORED = 1
"""One scored example."""
DIFFERENTIATED = 3
"""One example in a gradient batch: forward and backward."""
