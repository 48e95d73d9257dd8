"""The page that tells a person what runs here, and the same as plain text for a terminal."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from importlib.metadata import version

from abruzzi.engines.base import Capabilities
from abruzzi.server.exchange import Exchange
from abruzzi.server.paths import Path

_HOST = re.compile(r"[\w.:\[\]-]{1,260}", re.ASCII)
_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem }
pre { padding: 1rem; overflow-x: auto; border: 1px solid #8886; border-radius: .4rem; font-size: .85rem }
code { font-family: ui-monospace, monospace }
h2 { font-size: 1.1rem; margin-top: 2rem }
"""
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(sha256(_STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"vary", b"accept"),
)


@dataclass(frozen=True, slots=True)
class About:
    engine: Capabilities
    paths: Sequence[Path]
    needs_key: bool


def shown(about: About, exchange: Exchange) -> tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...]]:
    """Body, content type and headers, in what the client asks for: HTML for a browser, text for all others."""
    base = _base_url(exchange)
    html = b"text/html" in exchange.headers.get(b"accept", b"")
    text = _html(about, base) if html else _text(about, base)
    return text.encode(), f"text/{'html' if html else 'plain'}; charset=utf-8".encode(), _HEADERS


def _base_url(exchange: Exchange) -> str:
    """As the client reached it. What it sent is shown to it in commands, and so is held to what a host may be."""
    host = exchange.headers.get(b"host", b"").decode("latin-1")
    secure = exchange.headers.get(b"x-forwarded-proto") == b"https"
    return f"http{'s' * secure}://{host if _HOST.fullmatch(host) else 'localhost'}"


def _facts(about: About) -> list[tuple[str, str]]:
    return [
        ("model", about.engine.model),
        ("variant", about.engine.variant.name),
        ("version", f"Abruzzi {version('abruzzi')}"),
    ]


def _paths(about: About) -> list[str]:
    return [f"{method:<6} {path.name}" for path in about.paths for method in path.handlers]


def _examples(about: About, base: str) -> list[tuple[str, str]]:
    """Each with its title."""
    model = about.engine.model
    key = '    -H "Authorization: Bearer $ABRUZZI_API_KEY" \\\n' if about.needs_key else ""
    named = 'os.environ["ABRUZZI_API_KEY"]' if about.needs_key else '"none"'
    imports = "import os\n\n" if about.needs_key else ""
    curl = (
        f"curl {base}/v1/chat/completions \\\n{key}"
        "    -H 'Content-Type: application/json' \\\n"
        '    -d \'{"messages": [{"role": "user", "content": "Hello!"}]}\''
    )
    openai = (
        f"{imports}from openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{base}/v1", api_key={named})\n'
        f'messages = [{{"role": "user", "content": "Hello!"}}]\n'
        f"print(client.chat.completions.create(model={model!r}, messages=messages).choices[0].message.content)"
    )
    examples = [("curl", curl), ("Python, openai", openai)]
    if any(path.name == "/v1/messages" for path in about.paths):
        anthropic = (
            f"{imports}from anthropic import Anthropic\n\n"
            f'client = Anthropic(base_url="{base}", api_key={named})\n'
            f'messages = [{{"role": "user", "content": "Hello!"}}]\n'
            f"print(client.messages.create(model={model!r}, max_tokens=100, messages=messages).content)"
        )
        examples.append(("Python, anthropic", anthropic))
    return examples


def _text(about: About, base: str) -> str:
    parts = ["\n".join(f"{name:<8} {value}" for name, value in _facts(about)), "\n".join(_paths(about))]
    parts += [f"# {title}\n{code}" for title, code in _examples(about, base)]
    return "\n\n".join(parts) + "\n"


def _html(about: About, base: str) -> str:
    facts = "".join(f"<li>{escape(name)}: <code>{escape(value)}</code></li>" for name, value in _facts(about))
    examples = "".join(
        f"<h2>{escape(title)}</h2><pre><code>{escape(code)}</code></pre>" for title, code in _examples(about, base)
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Abruzzi</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>Abruzzi</h1>"
        f"<p>Tool calling for Kimi K2 that holds.</p><ul>{facts}</ul>"
        f"<pre><code>{escape(chr(10).join(_paths(about)))}</code></pre>"
        f'<p><a href="/health">/health</a> <a href="/metrics">/metrics</a></p>{examples}</body></html>'
    )
