"""Who may come in: keys, and what keeps web pages out of a server that has none."""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from abruzzi.protocol.errors import RequestError
from abruzzi.server.refusals import NoKey, NotFromHere
from abruzzi.server.settings import Settings, is_loopback

# What a header can carry, and a list with commas.
_KEY = re.compile(r"[!-+\--~]+")
_COMMENT = re.compile(r"(?:^|\s)#.*")
_HOST = re.compile(r"(?:\[([^\]]*)\]|([^:\[\]]*))(?::\d*)?")
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_.])?")
# Browsers' extensions and desktop applications have schemes of their own.
_ORIGIN = re.compile(
    rf"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:{_NAME.pattern}|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{{1,5}}))?"
)
# Open to everybody, so that a load balancer can ask; and those that are on a server which only this machine can reach.
_OPEN = frozenset({"/health"})
_OPEN_ON_LOOPBACK = frozenset({"/health", "/metrics", "/"})


class Access:
    """Lets requests in, or says why not."""

    def __init__(self, settings: Settings) -> None:
        self._digests = tuple(sha256(key.encode()).digest() for key in settings.api_keys)
        self._is_loopback = settings.is_loopback
        self._open = _OPEN_ON_LOOPBACK if self._is_loopback else _OPEN
        self._hosts = frozenset((settings.host.lower(), *map(host_of, settings.allow_hosts)))
        self._origins = frozenset(map(origin_of, settings.allow_origins))

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


def keys_of(given: Sequence[str], file: Path | None, listed: str | None) -> tuple[str, ...]:
    """All keys: those that were given, those of a file, and those that ABRUZZI_API_KEYS lists with commas between them.

    Raises RequestError for what can't be a key, a file of keys, or a list of them: who means to have keys and has none
    would serve everybody. The message doesn't hold any.
    """
    keys = [*given, *(keys_in(file) if file is not None else ())]
    if listed is not None:
        found = [key for one in listed.split(",") if (key := one.strip())]
        if not found:
            raise RequestError("expected API keys in ABRUZZI_API_KEYS, got none: unset it where there are to be none")
        keys += found
    return tuple(check_key(key, f"API key {number}") for number, key in enumerate(keys, 1))


def keys_in(file: Path) -> list[str]:
    """What stands in a file of keys: one a line. A comment begins with # at a line's beginning or behind white space.
    Raises RequestError where there is none.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"can't read API keys from {file}: {getattr(error, 'strerror', error)}") from None
    found = [key for line in lines if (key := _COMMENT.sub("", line).strip())]
    if not found:
        raise RequestError(f"expected API keys in {file}, one a line: there is none")
    return found


def check_key(key: str, name: str) -> str:
    """The key, if it can be one. Raises RequestError with its name."""
    if not _KEY.fullmatch(key):
        raise RequestError(f"{name} is none: expected ASCII characters without spaces and commas")
    return key


def origin_of(text: str) -> str:
    """An origin as browsers send it, or `*` for all of them. Raises RequestError for what no browser sends."""
    origin = text.lower()
    found = _ORIGIN.fullmatch(origin)
    if origin != "*" and (found is None or not _is_port(found["port"])):
        raise RequestError(
            "expected an origin such as https://ui.example or http://localhost:3000, without a path, or *,"
            f" got {text!r}"
        )
    default = {"http": ":80", "https": ":443"}.get(found["scheme"]) if found else None  # those are never sent
    return origin.removesuffix(default) if default else origin


def host_of(text: str) -> str:
    """A name as the Host header has it, without a port. Raises RequestError for what is none."""
    name = text.lower()
    bare = name.removeprefix("[").removesuffix("]")
    if not _NAME.fullmatch(name) and not (":" in bare and _is_address(bare)):
        raise RequestError(
            f"expected a host's name such as host.docker.internal, without scheme and port, got {text!r}"
        )
    return bare


def _is_port(text: str | None) -> bool:
    return text is None or 0 < int(text) < 65_536


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
