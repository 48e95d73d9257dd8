"""Who may come in: keys, and what keeps web pages out of a server that has none."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from abruzzi.protocol.errors import RequestError
from abruzzi.server.refusals import NoKey, NotFromHere
from abruzzi.server.settings import Settings, is_loopback

# What a header can carry, and a list with commas.
_KEY = re.compile(r"[!-+\--~]+")
_HOST = re.compile(r"(?:\[([^\]]*)\]|([^:\[\]]*))(?::\d*)?")
# Open to everybody, so that a load balancer can ask; and those that are on a server which only this machine can reach.
_OPEN = frozenset({"/health"})
_OPEN_ON_LOOPBACK = frozenset({"/health", "/metrics", "/"})


class Access:
    """Lets requests in, or says why not."""

    def __init__(self, settings: Settings) -> None:
        self._digests = tuple(sha256(key.encode()).digest() for key in settings.api_keys)
        self._is_loopback = settings.is_loopback
        self._open = _OPEN_ON_LOOPBACK if self._is_loopback else _OPEN
        self._hosts = frozenset(name.lower() for name in (settings.host, *settings.allow_hosts))
        self._origins = frozenset(settings.allow_origins)

    def admit(self, headers: Mapping[bytes, bytes], path: str) -> bytes | None:
        """The digest of the caller's key, or None for one who needs no key. Raises NoKey, NotFromHere."""
        if self._digests:
            known = self._key_of(headers)
            if known is not None:
                return known
            if path not in self._open:
                raise NoKey("expected a known key in Authorization: Bearer KEY, or in x-api-key")
        self._keep_pages_out(headers)
        return None

    def cors(self, origin: bytes | None) -> list[tuple[bytes, bytes]]:
        """What lets pages of an origin that is allowed read the answer."""
        if not self._origins:
            return []
        if "*" in self._origins:
            allowed = [(b"access-control-allow-origin", b"*")]
        elif origin is not None and origin.decode("latin-1") in self._origins:
            allowed = [(b"access-control-allow-origin", origin), (b"vary", b"origin")]
        else:
            return [(b"vary", b"origin")]
        return [*allowed, (b"access-control-expose-headers", b"x-request-id, retry-after")]

    def preflight(self, headers: Mapping[bytes, bytes], methods: str) -> list[tuple[bytes, bytes]] | None:
        """What else answers a browser that asks whether a page may; None where it may not."""
        if len(self.cors(headers.get(b"origin"))) < 2:
            return None
        wanted = headers.get(b"access-control-request-headers", b"authorization, content-type")
        methods_and_headers = [
            (b"access-control-allow-methods", methods.encode()),
            (b"access-control-allow-headers", wanted),
        ]
        return [*methods_and_headers, (b"access-control-max-age", b"600")]

    def _key_of(self, headers: Mapping[bytes, bytes]) -> bytes | None:
        known = None
        scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
        for key in (bearer.strip() if scheme.lower() == b"bearer" else b"", headers.get(b"x-api-key", b"")):
            if key:
                digest = sha256(key).digest()
                # Against all of them, so that the time tells nothing of where it matched.
                for one in self._digests:
                    if hmac.compare_digest(digest, one):
                        known = one
        return known

    def _keep_pages_out(self, headers: Mapping[bytes, bytes]) -> None:
        """Who has no key may be a web page in the browser of somebody who can reach this server.

        Its own name may have been made to mean 127.0.0.1 (DNS rebinding): then the Host header gives it away. Or it
        sends blindly to ours, without being able to read the answer: then the Origin does.
        """
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._is_loopback and b"host" in headers and not self._is_ours(host):
            raise NotFromHere(
                f"this server is for its own machine and doesn't answer to the name {host[:100]!r}"
                " (serve --allow-host NAME makes it)"
            )
        origin = headers.get(b"origin", b"").decode("latin-1")
        if b"origin" not in headers or "*" in self._origins or origin in self._origins:
            return
        if origin.lower().partition("://")[2] != host:
            raise NotFromHere(
                f"pages of {origin[:100]!r} may not use this server (serve --allow-origin ORIGIN lets them)"
            )

    def _is_ours(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        name = (found[1] or found[2]) if found else ""
        return name in self._hosts or is_loopback(name)


def keys_of(given: Sequence[str], file: Path | None, listed: str) -> tuple[str, ...]:
    """All keys: those that were given, those of a file (one a line, # begins a comment), and a list with commas.

    Raises RequestError for what can't be a key, or a file of keys. The message doesn't hold any.
    """
    keys = list(given)
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"can't read API keys from {file}: {getattr(error, 'strerror', error)}") from None
        found = [key for line in lines if (key := line.partition("#")[0].strip())]
        if not found:
            raise RequestError(f"expected API keys in {file}, one a line: there is none")
        keys += found
    keys += [key for one in listed.split(",") if (key := one.strip())]
    for number, key in enumerate(keys, 1):
        if not _KEY.fullmatch(key):
            raise RequestError(f"API key {number} is none: expected ASCII characters without spaces and commas")
    return tuple(keys)
