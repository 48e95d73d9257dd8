"""From what a user writes, a URL or a model's name, to the engine that is meant."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

from abruzzi.engines.base import Engine
from abruzzi.engines.completions import CompletionsEngine
from abruzzi.engines.local.engine import LocalEngine
from abruzzi.engines.local.weights import CATALOGUE, SMOLLM2, Progress, Weights, is_whole, obtain, weights_named
from abruzzi.engines.pool import Pool
from abruzzi.engines.served import Served, served
from abruzzi.protocol.errors import EngineUnavailable, RequestError
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import K2, Variant, variant_named, variant_of_model

EMBEDDED = "embedded"
_SUCH_AS = "http://localhost:8000/v1"
_KEY = re.compile(r"[!-~]+")
_USER = re.compile(r"^([a-z]+://)?.*@", re.IGNORECASE | re.DOTALL)
_QUERY = re.compile(r"([?#]).*", re.DOTALL)
# How long what an engine can do is waited for at start: one that is busy is asked again beside its first request.
_START_SECONDS = 20.0
logger = logging.getLogger(__name__)


def connect(
    engine: str | Sequence[str] = EMBEDDED,
    *,
    model: str | None = None,
    variant: str | None = None,
    tokenizer: str | Path | None = None,
    timeout: float | None = None,
    api_key: str | None = None,
    guided: bool = True,
    threads: int = 1,
    progress: Progress | None = None,
) -> Engine:
    """The engine at a URL (`http://host:port/v1`, a server of OpenAI's completions or of its chat alone), or the
    embedded one; of several URLs, a `Pool` of engines that serve the same model.

    `model` is the name that the server knows its model by (its first one when left out); for the embedded engine the
    name of known weights or a path to a GGUF file. `variant` is the format that a served model speaks; without it the
    model's name tells, or it is `k2`. `tokenizer` is the folder of a served K2's `tiktoken.model`: with it prompts go
    out as token ids where the engine takes them, and tokens are counted where it doesn't. `timeout`: seconds of a
    served engine's silence after which it is given up, 600 when left out. `api_key` is sent to each served engine
    (`Authorization: Bearer`). Without `guided` a served engine is given no grammar. `progress` hears of a download.

    Blocks while weights are fetched and loaded, about a second when they are cached, and while a served engine shows
    which grammars it obeys, a second or two. Of several engines, one must answer. Raises EngineUnavailable, and
    RequestError for an unknown variant, for a Kimi K3, for a key that no header can hold and for engines that serve
    different models.
    """
    urls = [engine] if isinstance(engine, str) else list(engine)
    if len(urls) != 1 or is_url(urls[0]):
        if timeout is not None and not timeout > 0:
            raise RequestError(f"expected seconds of silence, got {timeout}", "timeout")
        if api_key is not None and not _KEY.fullmatch(api_key):
            raise RequestError(
                "expected an engine's key of printable ASCII without spaces, got another text", "api_key"
            )
        vocabulary = None if tokenizer is None else Tokenizer.from_folder(tokenizer)
        urls = list(dict.fromkeys(map(base_url_of, urls)))
        return _served(urls, model, variant, vocabulary, timeout, api_key, guided=guided)
    (engine,) = urls
    if api_key is not None:
        raise RequestError("expected no engine's key: the embedded engine asks for none", "api_key")
    if tokenizer is not None:
        raise RequestError("expected no tokenizer: the embedded model has its own", "tokenizer")
    if variant is not None:
        raise RequestError("expected no variant: the embedded model has its own", "variant")
    if threads < 1:
        raise EngineUnavailable(f"expected at least one thread, got {threads}")
    if engine != EMBEDDED:
        raise EngineUnavailable(f"expected {EMBEDDED!r} or a URL such as {_SUCH_AS}, got {_shown(engine)!r}")
    path, weights = _weights(model, progress or (lambda *_: None))
    # The adapter was trained on these very weights; on others it would be noise.
    adapter = Path(str(files("abruzzi.engines.local") / "adapter.gguf")) if weights is SMOLLM2 else None
    local = LocalEngine.load(path, adapter, name=weights.name if weights else path.stem, threads=threads)
    if adapter is None and local.capabilities.variant.name == "smollm2":
        logger.warning(
            "%s is not %s, byte for byte: it goes without the adapter, and so was never taught to call tools",
            path,
            SMOLLM2.name,
        )
    return local


def is_url(engine: str) -> bool:
    """Whether a server is meant, and not the embedded engine."""
    return engine.lower().startswith(("http://", "https://"))


def base_url_of(url: str) -> str:
    """The URL with `/v1` at its end. It is shown in errors, logs and `/health`, and so must hold no secret."""
    if "@" in url:
        raise EngineUnavailable(
            f"expected a URL without a user name and password, got {_shown(url)!r}: give the engine's key as api_key "
            "(--engine-key-file FILE or ABRUZZI_ENGINE_KEY)"
        )
    if "?" in url or "#" in url:
        raise EngineUnavailable(f"expected a URL without a query or fragment, such as {_SUCH_AS}, got {_shown(url)!r}")
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and " " not in url
    except ValueError:  # a port that is none, half an IPv6 address
        is_one = False
    if not is_one:
        raise EngineUnavailable(f"expected a URL such as {_SUCH_AS}, got {url!r}")
    base_url = url.rstrip("/")
    return base_url if base_url.endswith("/v1") else f"{base_url}/v1"


def _shown(url: str) -> str:
    """Without what may be a secret: all before an `@`, and all of a query or fragment."""
    return _QUERY.sub(r"\1...", _USER.sub(lambda found: f"{found[1] or ''}...@", url))


def _served(
    urls: Sequence[str],
    model: str | None,
    variant: str | None,
    tokenizer: Tokenizer | None,
    timeout: float | None,
    api_key: str | None,
    *,
    guided: bool,
) -> Engine:
    """The engine at these URLs. A single one that is named isn't asked for what it serves, and may come up later."""
    found: list[Served | EngineUnavailable]
    if len(urls) == 1:
        found = [served(urls[0], None, api_key) if model is None else Served(model)]
    else:
        with ThreadPoolExecutor(min(32, len(urls) or 1)) as threads:
            found = list(threads.map(lambda url: _asked(url, model, api_key), urls))
    answering = [one for one in found if isinstance(one, Served)]
    if not answering:
        down = "; ".join(map(str, found)) or "none is named"
        raise EngineUnavailable(f"expected an engine that answers: {down}")
    engines: list[CompletionsEngine] = []
    for url, one in zip(urls, found, strict=True):
        # One that is down is taken to serve what the others do, once it is up.
        what = one if isinstance(one, Served) else answering[0]
        row = variant_for(what.model, variant)
        if tokenizer is not None:
            check_tokenizer(tokenizer, row)
        engines.append(
            CompletionsEngine(
                url,
                model=what.model,
                variant=row,
                context_length=what.context_length,
                tokenizer=tokenizer,
                timeout=timeout,
                api_key=api_key,
                guided=guided,
            )
        )
    _settle(engines)
    if len(engines) == 1:
        return engines[0]
    pool = Pool(engines)
    for engine, one in zip(engines, found, strict=True):
        if isinstance(one, EngineUnavailable):
            pool.note_failure(engine, one)
    return pool


def check_tokenizer(tokenizer: Tokenizer, variant: Variant) -> None:
    """Raises RequestError for a model of another family than K2's, whose tokenizer it is."""
    if not variant.controls <= tokenizer.controls.keys():
        raise RequestError(f"expected no tokenizer of Kimi K2 for a model of variant {variant.name!r}", "tokenizer")


def _settle(engines: Sequence[CompletionsEngine]) -> None:
    """Find out how all of them are asked. A Ctrl-C meanwhile isn't held up by them."""

    async def find_out(engine: CompletionsEngine) -> None:
        await engine.settle(_START_SECONDS)
        await engine.look()  # one that is named wasn't asked before, and /health tells of it at once

    async def settle() -> None:
        await asyncio.gather(*map(find_out, engines))

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(settle())

    def cancel() -> None:
        for task in asyncio.all_tasks(loop):
            task.cancel()

    # In a thread, whose event loop is its own: one may be running here.
    loop = asyncio.new_event_loop()
    with ThreadPoolExecutor(1) as threads:
        settling = threads.submit(run)
        try:
            settling.result()
        except BaseException:
            with contextlib.suppress(RuntimeError):  # it has run to its end
                loop.call_soon_threadsafe(cancel)
            raise


def told(engine: Engine) -> Sequence[tuple[str, bool]]:
    """What was found out of served engines, a line each, and whether something had better be changed."""
    several = engine.engines if isinstance(engine, Pool) else [engine]
    return [
        (f"{one.url} {text}", is_trouble)
        for one in several
        if isinstance(one, CompletionsEngine)
        for text, is_trouble in one.told()
    ]


def _asked(url: str, model: str | None, api_key: str | None) -> Served | EngineUnavailable:
    try:
        return served(url, model, api_key)
    except EngineUnavailable as error:
        return error


def variant_for(model: str, variant: str | None) -> Variant:
    row = variant_named(variant) if variant else variant_of_model(model)
    if row is None:
        logger.warning("the name %s doesn't tell the model's format: it is taken for K2-Instruct's, k2", model)
        return K2
    return row


def _weights(model: str | None, progress: Progress) -> tuple[Path, Weights | None]:
    """The file that is meant, and the catalogue's entry for it where it has one."""
    if model is None or not (model.endswith(".gguf") or "/" in model):
        weights = SMOLLM2 if model is None else weights_named(model)
        return obtain(weights, progress), weights
    path = Path(model).expanduser()
    if not path.is_file():
        raise EngineUnavailable(f"no file at {path}: expected GGUF weights")
    known = next((weights for weights in CATALOGUE if weights.size == path.stat().st_size), None)
    if known is not None and not is_whole(path, known):
        raise EngineUnavailable(f"{path} is broken: it has the size of {known.name}, and other bytes")
    return path, known
