"""OpenAI-compatible HTTP: parse, validate, answer."""
