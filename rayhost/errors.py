"""The one error hierarchy. A leaf: imports nothing internal, anyone may raise from it.

`RayhostError` is for the operator (one line, names the offending thing and what would be valid);
`ApiError` is for an HTTP client and owns its status and its OpenAI error type and code.
"""

from typing import ClassVar


class RayhostError(Exception):
    """A failure with a one-line message an operator can act on. The CLI prints it and exits 1."""


class ApiError(RayhostError):
    """A failure that an OpenAI client understands.

    `param` names the request field at fault; `retry_after` is in whole seconds and becomes the
    Retry-After header. `hopeless` where asking again cannot help before somebody mends something:
    clients that repeat every 500 and 503 by themselves are told so (X-Should-Retry).
    """

    status: ClassVar[int] = 500
    hopeless: ClassVar[bool] = False
    type: ClassVar[str] = "server_error"
    code: str = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        if code is not None:
            self.code = code


class InvalidRequest(ApiError):
    """400: the request itself is wrong; sending it again cannot help."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class ContextLengthExceeded(InvalidRequest):
    """400: the prompt does not fit the model's context."""

    code = "context_length_exceeded"


class NotFound(ApiError):
    """404: no such route."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    """404: no model of that name or alias is served here."""

    code = "model_not_found"


class MethodNotAllowed(ApiError):
    """405: the route exists for another method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class BodyTooLarge(ApiError):
    """413: the body is over the profile's limit."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class Unauthorized(ApiError):
    """401: no API key, or none that is known here."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Forbidden(ApiError):
    """403: a web page, or another machine's name, where no API key tells who asks."""

    status = 403
    type = "invalid_request_error"
    code = "forbidden"


class RateLimited(ApiError):
    """429: this key is over one of its limits; come back after `retry_after`."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class RequestTimeout(ApiError):
    """408: the client did not send its request in time."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class HeadTooLarge(ApiError):
    """431: the request line and headers, or the trailers, are over the server's limit."""

    status = 431
    type = "invalid_request_error"
    code = "headers_too_large"


class QueueFull(ApiError):
    """429: the queue is full, and this key's share of it used up; come back after `retry_after`."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"


class Unavailable(ApiError):
    """503: the model or the host cannot take work now (draining, failed to load)."""

    status = 503
    type = "server_error"
    code = "unavailable"


class ModelFailed(Unavailable):
    """503: the model cannot be loaded, and nobody tries again before the operator says so."""

    hopeless = True
    code = "model_failed"


class Overloaded(Unavailable):
    """503: the box has more work than it can do in time; come back after `retry_after`."""

    code = "overloaded"


class DeadlineExceeded(ApiError):
    """504: the time that the client gave is over, or too short for what is left to do."""

    status = 504
    code = "deadline_exceeded"


class WorkerLost(ApiError):
    """500: the worker died under this request and it could not be carried on."""

    hopeless = True  # it was tried again, until it was known to be the cause
    code = "worker_lost"
