"""The one place of the HTTP layer that encodes JSON. Anyone in `rayhost.http` may call it."""

import orjson
from starlette.responses import Response

encode = orjson.dumps  # dataclasses too, as objects


def json_response(payload: object, status: int = 200) -> Response:
    """Return a whole reply."""
    return Response(encode(payload), status_code=status, media_type="application/json")
