"""Who answers while the engine loads: every request is told to come again. The port is ours from the beginning, and no
client hangs on it for as long as weights take to load.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from types import TracebackType

import msgspec

# Seconds: for a request's head to come; until a client had better come again.
_PATIENCE = 1.0
_AGAIN = 10
_MAX_HEAD = 64 << 10


class Loading:
    """Answers on a listening socket, in a thread of its own, until the `with` block is left: a 503 in OpenAI's form,
    which `/health`'s readers understand, too. The socket is left open, for the server.
    """

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self._began = time.monotonic()
        self._end, self._leave = os.pipe()
        self._thread = threading.Thread(target=self._answer_all, name="loading", daemon=True)

    def __enter__(self) -> Loading:
        self._listening.setblocking(False)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._leave)
        self._thread.join()
        os.close(self._end)

    def _answer_all(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listening, selectors.EVENT_READ)
            selector.register(self._end, selectors.EVENT_READ)
            while all(key.fd != self._end for key, _ in selector.select()):
                self._answer()

    def _answer(self) -> None:
        try:
            connection, _ = self._listening.accept()
            with connection:
                connection.settimeout(_PATIENCE)
                head = b""
                while b"\r\n\r\n" not in head and len(head) < _MAX_HEAD and (part := connection.recv(1 << 16)):
                    head += part
                connection.sendall(self._response())
                # A body that is still coming would have the answer thrown away with the connection.
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    pass
        except OSError:  # it left, or says nothing
            return

    def _response(self) -> bytes:
        seconds = time.monotonic() - self._began
        message = f"the engine is loading, for {seconds:.0f} s by now"
        error = {"message": message, "type": "server_error", "param": None, "code": "engine_unavailable"}
        body = msgspec.json.encode({"status": "loading", "error": error})
        head = (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
            f"Retry-After: {_AGAIN}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body
