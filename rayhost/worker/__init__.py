"""The worker process: one step loop over many sequences."""
