"""How many scored examples each way to search needs, on landscapes small enough to repeat."""
