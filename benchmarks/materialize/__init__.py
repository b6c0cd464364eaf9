"""What it costs to change the weights of a resident model."""
