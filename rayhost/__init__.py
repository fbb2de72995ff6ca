"""rayhost: host small language models on one cheap machine."""

__version__ = "0.1.0"
