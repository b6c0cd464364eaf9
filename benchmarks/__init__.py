"""The figures that README and docs quote, each one command."""
