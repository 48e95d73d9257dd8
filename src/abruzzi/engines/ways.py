"""How a server is asked, found out by asking it: which engine it is, and by which field it obeys a grammar.

Engines ignore fields that they don't know and answer 200: only what comes tells whether a constraint was obeyed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from abruzzi.engines.api import PLAIN, STRICT, Api, Constraint, Ids
from abruzzi.engines.http import BrokenOff, Client, Silence, Unreachable
from abruzzi.engines.llamacpp import LLAMACPP
from abruzzi.engines.output import counted
from abruzzi.engines.refusal import words
from abruzzi.engines.served import context_length_of
from abruzzi.engines.sglang import SGLANG
from abruzzi.engines.trtllm import TRTLLM
from abruzzi.engines.vllm import VLLM
from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.errors import EngineUnavailable
from abruzzi.protocol.markers import CALL_BEGIN, MARKERS, SECTION_BEGIN, THINK_BEGIN, THINK_END
from abruzzi.protocol.messages import Tool
from abruzzi.protocol.variants import K2_CONTROL_IDS, Variant

APIS = (VLLM, SGLANG, TRTLLM, LLAMACPP)
# A name that no model comes upon by itself, and enough tokens to write it in with a byte a token; and to see by that
# something else is written, which most grammars come to that are ignored.
_PROBED = "abruzzi_probe_7f3a"
_PROBE_TOKENS, _FIRST_TOKENS = 96, 12
_BEGINNING = f"functions.{_PROBED}:0"
# Of a chat, whose model may think before it calls.
_CHAT_TOKENS = 1024
# Of a server that loads, is full or isn't there, or lets nobody in: they say nothing of what it can do.
_UNANSWERED = (401, 403, 408, 425, 429, 502, 503, 504)
# An engine that is busy, or compiles its first grammar, takes a while; one that is lost doesn't hold others up longer.
_PROBE_SECONDS = 60.0
_PATIENCE_WITH_OTHERS = 5.0  # with servers that are no engine that is known
# Of an answer, in bytes: the ids of a long prompt are some.
_MAX_ANSWER = 8 << 20
# Of a path that a server doesn't have.
_NOT_OFFERED = (404, 405, 501)


@dataclass(frozen=True, slots=True)
class Ways:
    """What is known of a server."""

    api: Api = PLAIN
    version: str | None = None
    constraint: Constraint | None = None
    """By which it was seen to obey a grammar."""
    ids: Ids = field(default_factory=dict)
    """Control tokens of its vocabulary: those of the markers and of the turn's end, or none."""
    context_length: int | None = None
    tells_ids: bool = False
    """Whether the ids of what it writes came when they were asked for."""
    shows_markers: bool | None = None
    """Whether markers are seen in the text; None where that wasn't found out."""
    completes: bool = True
    """Whether it offers completions, and not chat alone."""
    refusal: str = ""
    """Its words where it refuses a completion of nothing but OpenAI's fields."""


class Asker:
    """Asks a server small things. `client` is of its root, without `/v1`."""

    def __init__(self, client: Client, model: str) -> None:
        self.client = client
        self.model = model
        self.patience = _PROBE_SECONDS
        """Seconds that an answer may take."""
        self._trouble = ""  # why the last answer didn't come

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Wait for long, whoever is asked."""
        usual, self.patience = self.patience, _PROBE_SECONDS
        try:
            yield
        finally:
            self.patience = usual

    async def get(self, path: str) -> tuple[int, Any]:
        """The status and the answer, of JSON or as a text; 0 and None where none came."""
        return await self._ask("GET", path, b"")

    async def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        """The same of a request with a body of JSON."""
        return await self._ask("POST", path, msgspec.json.encode(body))

    async def complete(self, api: Api, prompt: str | list[int], **fields: Any) -> tuple[int, dict[str, Any] | str]:
        """The first choice of a completion, whole, its `text` a text and its `usage` a `Usage`; of a refusal its words.
        Raises EngineUnavailable where no answer comes that says anything.
        """
        body = {"model": self.model, "prompt": prompt, "temperature": 1.0, **api.fields, **fields}
        status, answer = await self.post("/v1/completions", body)
        self.check(status, answer)
        with contextlib.suppress(LookupError, TypeError, AttributeError):
            choice = answer["choices"][0]
            text = choice.get("text") or ""
            if isinstance(text, str):
                return status, {**choice, "text": text, "usage": counted(answer.get("usage"))}
        return status, words(msgspec.json.encode(answer).decode())

    def check(self, status: int, answer: Any) -> None:
        """Raises EngineUnavailable for what says nothing of what the server can do."""
        url = self.client.url
        if not status:
            raise EngineUnavailable(f"{url} gave no answer: {self._trouble}")
        if status in (401, 403):
            raise EngineUnavailable(
                f"{url} answered {status}: give its key with --engine-key-file FILE or ABRUZZI_ENGINE_KEY"
            )
        if status in _UNANSWERED:
            raise EngineUnavailable(f"{url} answered {status}: {words(msgspec.json.encode(answer).decode())}")

    async def chat(self, **fields: Any) -> tuple[int, Any]:
        """As `post`, of a chat that begins."""
        body = {"model": self.model, "messages": [{"role": "user", "content": "Hello"}], **fields}
        return await self.post("/v1/chat/completions", body)

    async def _ask(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        try:
            async with asyncio.timeout(self.patience):
                response = await self.client.ask(method, path, body)
                try:
                    said = await response.rest(_MAX_ANSWER)
                finally:
                    response.close()
        except (Unreachable, BrokenOff, Silence, TimeoutError) as error:
            self._trouble = str(error) or f"none within {self.patience:g} s"  # asyncio's own has no words
            return 0, None
        try:
            return response.status, msgspec.json.decode(said)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return response.status, said.decode(errors="replace")


async def ways_of(asker: Asker, variant: Variant, *, guided: bool = True) -> Ways:
    """What can be found out in a second or two. Without `guided` no grammar is tried. Raises EngineUnavailable where
    nobody answers, or not as one who is ready.
    """
    status, listed = await asker.get("/v1/models")
    asker.check(status, listed)
    api, refusal = api_of(listed), ""
    if not api.is_known:
        asker.patience = _PATIENCE_WITH_OTHERS
    if await offers_chat_alone(asker):
        return Ways(completes=False)
    if not api.is_known:
        api, refusal = await _unknown(asker)
    ways = Ways(
        api,
        await version_of(asker, api),
        refusal=refusal,
        ids=await ids_of(asker, api, variant),
        context_length=context_length_of(listed, asker.model),
    )
    if guided and not refusal:
        ways = await _held(asker, ways)
    return await _marked(asker, ways)


def candidates(ways: Ways) -> Sequence[Ways]:
    """The ways in which a server may be held to a grammar. Routers put a name of their own in the engine's place: one
    that isn't known may be held as any that is.
    """
    if ways.api.is_known:
        return [ways]
    return [replace(ways, api=replace(api, name=f"like {api.name}", tokenize=None)) for api in APIS]


async def _held(asker: Asker, ways: Ways) -> Ways:
    """With the first constraint that is obeyed."""
    for one in candidates(ways):
        for constraint in one.api.constraints:
            if await obeyed(asker, one, constraint) is True:
                return replace(one, constraint=constraint)
    return ways


async def _unknown(asker: Asker) -> tuple[Api, str]:
    """How a server is asked that is no engine that is known, and its words where it refuses that, too."""
    for api in (PLAIN, STRICT):
        status, got = await asker.complete(api, _PROBED, max_tokens=1)
        if status not in (400, 422):
            return api, ""
    return PLAIN, f"{status}: {got}"


async def offers_chat_alone(asker: Asker) -> bool:
    """Whether it has no completions, or none for this model, and answers a chat."""
    status, got = await asker.complete(PLAIN, _PROBED, max_tokens=1)
    if status not in _NOT_OFFERED and not (isinstance(got, str) and "chat" in got.lower()):
        return False
    status, answer = await asker.chat(max_tokens=1)
    # Where too many ask, it is there; of websites any path may answer 200.
    return status == 429 or (status == 200 and isinstance(answer, dict) and "choices" in answer)


async def obeys_tool_choice(asker: Asker) -> bool | str | None:
    """Whether a chat calls the function that it has to; the server's words where it refuses that, or else the text that
    it writes instead. None where it comes to no end, within its tokens or in time, or has
    too much to do.
    """
    with asker.patient():
        status, answer = await asker.chat(
            tools=[_tool().to_openai()],
            tool_choice={"type": "function", "function": {"name": _PROBED}},
            max_tokens=_CHAT_TOKENS,
        )
    if not status or status in _UNANSWERED:
        return None
    try:
        choice = answer["choices"][0]
        calls, said = choice["message"].get("tool_calls") or [], str(choice["message"].get("content") or "")
        if any(call["function"]["name"] == _PROBED for call in calls):
            return True
        # Thoughts may stand in the text, too.
        return None if choice.get("finish_reason") == "length" and CALL_BEGIN not in said else said
    except (LookupError, TypeError, AttributeError):
        return words(msgspec.json.encode(answer).decode())


def api_of(listed: Any) -> Api:
    """The engine that lists its models like this."""
    try:
        owner = listed["data"][0]["owned_by"]
    except (LookupError, TypeError):
        return PLAIN
    return next((api for api in APIS if api.owner == owner), PLAIN)


async def version_of(asker: Asker, api: Api) -> str | None:
    """What the engine calls its version, where it tells."""
    if not api.version:
        return None
    _, told = await asker.get(api.version)
    version = told.get(api.version_key) if isinstance(told, dict) else None
    return version if isinstance(version, str) else None


async def ids_of(asker: Asker, api: Api, variant: Variant) -> Ids:
    """The ids of the markers and of the turn's end: the server's own, where it reads text to ids. Where it doesn't, a
    K2's are known. None where one of them isn't a token there.
    """
    spellings = [one for one in (*MARKERS, THINK_BEGIN, THINK_END, variant.turn_end) if one in variant.controls]
    if api.tokenize is None:
        known = {spelling: id for id, spelling in K2_CONTROL_IDS.items() if spelling in spellings}
        return known if api.is_known and SECTION_BEGIN in variant.controls else {}
    path, body = api.tokenize(asker.model, "".join(spellings))
    _, told = await asker.post(path, body)
    ids = told.get("tokens") if isinstance(told, dict) else None
    if not isinstance(ids, list) or len(ids) != len(spellings) or not all(isinstance(one, int) for one in ids):
        return {}
    return dict(zip(spellings, ids, strict=True))


async def obeyed(asker: Asker, ways: Ways, constraint: Constraint) -> bool | str:
    """Whether a completion is held to a grammar by this; the engine's words where it refuses that."""
    fields = constraint.fields(_probe(), ways.ids)
    _, got = await asker.complete(ways.api, "Hello", max_tokens=_FIRST_TOKENS, **fields)
    if isinstance(got, str):
        return got
    text = got["text"]
    if not (f"{SECTION_BEGIN}{CALL_BEGIN}{_BEGINNING}".startswith(text) or _BEGINNING.startswith(_shown(text))):
        return _shown(text).startswith(_BEGINNING)
    with asker.patient():
        _, got = await asker.complete(ways.api, "Hello", max_tokens=_PROBE_TOKENS, **fields)
    return got if isinstance(got, str) else _shown(got["text"]).startswith(_BEGINNING)


def _shown(text: str) -> str:
    """What is left where markers are hidden."""
    return text.replace(SECTION_BEGIN, "", 1).replace(CALL_BEGIN, "", 1)


async def _marked(asker: Asker, ways: Ways) -> Ways:
    """With whether a marker is seen that the model is made to write, and whether its id comes."""
    id = ways.ids.get(CALL_BEGIN)
    if id is None:
        return ways
    fields = {"logit_bias": {str(id): 100}, **ways.api.ids_out}
    status, got = await asker.complete(ways.api, "Hello", max_tokens=1, **fields)
    if isinstance(got, str):
        if status >= 500 and (await asker.complete(ways.api, "Hello", max_tokens=1))[0] >= 500:
            # So what it said of grammars was none either.
            raise EngineUnavailable(f"{asker.client.url} answered {status}: {got}")
        return ways
    # A bias that is ignored tells nothing.
    seen = {CALL_BEGIN: True, "": False}.get(got["text"])
    return replace(ways, shows_markers=seen, tells_ids=bool(got.get("token_ids")))


def _probe() -> Grammar:
    """A turn that has to be one call."""
    return Grammar.for_turn([_tool()], tool_choice="required", parallel_tool_calls=False, variant="k2")


def _tool() -> Tool:
    parameters = {
        "type": "object",
        "properties": {"x": {"type": "integer"}},
        "required": ["x"],
        "additionalProperties": False,
    }
    return Tool(_PROBED, None, parameters)
