"""The model: decode, sample, text. Only the worker imports it."""
