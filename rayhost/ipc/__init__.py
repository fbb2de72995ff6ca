"""Shared-memory channel between the front and one worker."""
