# SPDX-License-Identifier: Apache-2.0
"""Refusal of requests that do not come from the page itself.

Only this machine can connect to the page, but every web site that its user visits can make the browser do so.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost")
REFUSAL = "The page answers only requests that come from itself and are sent to 127.0.0.1 or localhost.\n"


class LocalRequests:
    """Middleware that answers 403 unless a request is for this machine and has no origin but the page.

    A foreign host means that a name of a web site resolves to this machine (DNS rebinding). A foreign origin means that
    the page of a web site sends the request.

    Args:
        app: Application that answers the other requests.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_request = scope["type"] in ("http", "websocket")
        if is_request and not is_local(Headers(scope=scope)):
            await PlainTextResponse(REFUSAL, status_code=403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def is_local(headers: Headers) -> bool:
    """Return whether the host is this machine, and the origin, if there is one, has the same host and port."""
    host, origin = headers.get("host", "").lower(), headers.get("origin")
    name, _, port = host.partition(":")
    if name not in HOSTS or not (port == "" or port.isdecimal()):
        return False
    try:
        return origin is None or urlsplit(origin.lower()).netloc == host
    except ValueError:
        return False
