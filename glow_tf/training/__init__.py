"""Training: one step, the loop around it, the run's files, and its reports."""
