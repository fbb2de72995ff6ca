"""The fastest file and settings for this machine, searched: `rayhost tune`. The CLI calls it."""
