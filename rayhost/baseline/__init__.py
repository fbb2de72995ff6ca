"""What this machine and a model on it can do, measured: `rayhost bench`. The CLI calls it."""
