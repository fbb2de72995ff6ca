"""OpenAI's shape of an error. Used by whatever tells a client of one: `edge`, `protocol`."""

from typing import Any

from rayhost.errors import ApiError


def envelope(error: ApiError) -> dict[str, Any]:
    """Return the body that says what went wrong."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }
