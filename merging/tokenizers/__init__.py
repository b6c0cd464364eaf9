"""Tokens of several models: what they have in common, one vocabulary for all of them, rows by token."""
