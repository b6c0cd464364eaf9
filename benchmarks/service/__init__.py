"""What it costs to keep a service running: the coordinator's time for a trial, and how many workers it keeps busy."""
