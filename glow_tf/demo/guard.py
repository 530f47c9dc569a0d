"""Restricts the requests that the page's server answers.

No request can name a file on this machine or a URL on another one: images and uploads are sent as `data:` URLs, only
the paths that the page itself requests are allowed, and only numbers and strings are accepted as values. Gradio's
endpoints for serving, fetching and storing files are therefore unreachable.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from glow_tf.demo.explorer import MAX_UPLOAD_BYTES, encoded_length

# The largest request body: an upload in base64, and the other values.
MAX_BODY_BYTES = encoded_length(MAX_UPLOAD_BYTES) + 100_000

# The paths that the page requests; a trailing slash includes everything below it.
ALLOWED: dict[str, tuple[str, ...]] = {
    "GET": ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/assets/", "/static/", "/svelte/")
    + tuple(f"/gradio_api/{name}" for name in ("info", "queue/data", "heartbeat/", "startup-events", "theme.css")),
    "POST": ("/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset"),
}
ALLOWED["HEAD"] = ALLOWED["GET"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class AllowlistMiddleware:
    """ASGI middleware that forwards the requests that the page makes and answers all others with an error status."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]], host: str) -> None:
        self._app = app
        self._hosts = (host, "localhost")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handles one connection."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        status, body = self._status(scope), b""
        if status == 200 and scope["method"] == "POST":
            status, body = await _checked_body(receive)
        if status != 200:
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"error %d\n" % status})
            return
        rest = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Message:
            return next(rest, None) or await receive()

        await self._app(scope, replay if scope["method"] == "POST" else receive, send)

    def _status(self, scope: Message) -> int:
        # Under another host name the request may come from another site's script, which must not reach the page (DNS
        # rebinding).
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or hosts[0].rpartition(":")[0] not in self._hosts:
            return 403
        path = scope["path"]
        is_allowed = any(
            path.startswith(known) if known.endswith("/") and known != "/" else path == known
            for known in ALLOWED.get(scope["method"], ())
        )
        return 200 if is_allowed and ".." not in path else 404


async def _checked_body(receive: Receive) -> tuple[int, bytes]:
    """(status, body) of a POST request."""
    body, has_more = b"", True
    while has_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return 400, b""
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return 413, b""
        has_more = message.get("more_body", False)
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return 403, b""
    values = request.get("data") or [] if isinstance(request, dict) else None
    # Values of other types can name files or URLs, which Gradio would open or fetch.
    if not isinstance(values, list) or not all(v is None or isinstance(v, (int, float, str)) for v in values):
        return 403, b""
    # Serialise the checked values, so that Gradio's parser cannot read the original bytes differently.
    return 200, json.dumps(request).encode()
