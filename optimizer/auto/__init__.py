"""The strategy `auto`: from a screen of warm starts to finalists, on as few scored examples as it can."""
