"""Anthropic's shape of an error, for all under `/v1/messages`. Used by `edge` and the answers.

The status stays ours: an overloaded host says 503, where Anthropic's says 529.
"""

from typing import Any

from rayhost.errors import ApiError

_PATH = "/v1/messages"
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def speaks_anthropic(path: str) -> bool:
    """Tell whether who asks for a path expects errors in this shape."""
    return path == _PATH or path.startswith(f"{_PATH}/")


def messages_envelope(error: ApiError, request_id: str) -> dict[str, Any]:
    """Return the body that says what went wrong. `code` and `param` are ours, for programs."""
    return {
        "type": "error",
        "error": {
            "type": _TYPES.get(error.status, "api_error"),
            "message": error.message,
            "code": error.code,
            "param": error.param,
        },
        "request_id": request_id,
    }
