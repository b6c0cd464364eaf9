"""The command line's commands, in groups; `optimizer.cli` puts them together."""
