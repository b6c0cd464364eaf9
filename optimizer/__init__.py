"""Jobs, studies, workers, reports and the command line."""
