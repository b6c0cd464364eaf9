"""Time whole merges, from model folders to a model folder."""
