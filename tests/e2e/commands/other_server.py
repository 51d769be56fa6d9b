"""A server of somebody else's: OpenAI's streams token by token, and nothing beyond them.

No ``/metrics``, no ``/tokenize``, no usage; and it fails in the ways that servers fail, as the prompt asks for.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.server.listener import listening

TOKENS = 5
GAP_S = 0.02


class OtherServer:
    """Its address, and the bodies it was sent."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.bodies: list[dict[str, Any]] = []
        self.arrivals: list[float] = []


@contextmanager
def other_server(*, usage: bool = False) -> Iterator[OtherServer]:
    """Such a server on a free port; with ``usage`` it reports a usage where it is asked to."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            models = {"data": [{"id": "first"}, {"id": "second"}]}
            self._json(200, models) if self.path == "/v1/models" else self._json(404, {"detail": "Not Found"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path not in ("/v1/completions", "/v1/chat/completions"):
                self._json(404, {"detail": "Not Found"})
                return
            server.bodies.append(body)
            server.arrivals.append(time.monotonic())
            text = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
            if "overloaded" in text:
                self._json(503, {"error": {"message": "overloaded"}})
                return
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            chat = "messages" in body
            if chat:
                self._event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
            for number in range(TOKENS):
                time.sleep(GAP_S)
                if number == 2 and "breaks off" in text:
                    return
                if number == 2 and "garbles" in text:
                    self.wfile.write(b"data: {oops\n\n")
                    return
                if number == 2 and "complains" in text:
                    self._event({"error": {"message": "out of memory"}})
                    return
                said = {"delta": {"content": "x "}} if chat else {"text": "x "}
                self._event({"choices": [{"index": 0, **said, "finish_reason": None}]})
            if usage and body.get("stream_options", {}).get("include_usage"):
                self._event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2 * TOKENS}})
            self.wfile.write(b"data: [DONE]\n\n")

        def _event(self, payload: object) -> None:
            self.wfile.write(b"data: " + json.dumps(payload).encode() + b"\n\n")
            self.wfile.flush()

        def _json(self, status: int, payload: object) -> None:
            body = json.dumps(payload).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with listening(Handler) as url:
        server = OtherServer(url)
        yield server
