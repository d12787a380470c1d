# SPDX-License-Identifier: Apache-2.0
"""The question of the browser before it leaves a page whose parts are not saved."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Gradio ends the connection of a page at "beforeunload", even if the user stays or the browser only downloads a file.
# So this listener, which must run first, hides the event from Gradio's. Unsaved parts enable the button.
SCRIPT = b"""<script>addEventListener("beforeunload", event => {
    event.stopImmediatePropagation();
    if (document.querySelector("#parts-save")?.disabled === false) event.preventDefault();
})</script>"""
START = b"<head>"


class Departures:
    """Middleware that puts the script before all other scripts of the page, because listeners run in their order.

    Args:
        app: Application that answers the requests.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begin: list[Message] = []

        async def insert(message: Message) -> None:
            if message["type"] == "http.response.start":
                begin.append(message)
                return
            body = message.get("body", b"")
            if begin and START in body:
                message = {**message, "body": body.replace(START, START + SCRIPT, 1)}
                headers = MutableHeaders(scope=begin[0])
                headers["content-length"] = str(int(headers["content-length"]) + len(SCRIPT))
            while begin:
                await send(begin.pop())
            await send(message)

        is_page = scope["type"] == "http" and scope["path"] == "/"
        await self._app(scope, receive, insert if is_page else send)
