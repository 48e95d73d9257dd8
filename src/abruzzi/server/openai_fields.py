"""Fields of OpenAI's APIs that tell nothing of the answer wanted, and those that can't be honoured.

The first are checked and let be; `docs/server.md` lists them. The second are refused, rather than forgotten without a
word: the client would take an answer for what it isn't. All others are told of in the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from abruzzi.protocol.errors import RequestError
from abruzzi.server.dialect import Fields

TIERS = ("auto", "default", "flex", "scale", "priority", "fast", "ultrafast")
VERBOSITIES = ("low", "medium", "high")
_HERE = "not supported here"
# vLLM's and SGLang's own, which clients of theirs send.
_ENGINES_OWN = (
    "allowed_token_ids",
    "bad_words",
    "chat_template",
    "continue_final_message",
    "custom_logit_processor",
    "documents",
    "ignore_eos",
    "include_stop_str_in_output",
    "length_penalty",
    "logits_processors",
    "min_tokens",
    "no_stop_trim",
    "prompt_logprobs",
    "stop_regex",
    "stop_token_ids",
    "truncate_prompt_tokens",
    "use_beam_search",
)
_GRAMMARS = (
    "ebnf",
    "grammar",
    "guided_choice",
    "guided_decoding_backend",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "json_schema",
    "regex",
    "structural_tag",
    "structured_outputs",
)
_UNSUPPORTED: Mapping[str, str] = {
    **dict.fromkeys(_ENGINES_OWN, _HERE),
    **dict.fromkeys(_GRAMMARS, f"{_HERE}: expected tools, or the JSON Schema of an answer's form"),
    "audio": f"{_HERE}: answers are text only here",
    "moderation": f"{_HERE}: nothing is moderated",
    "web_search_options": f"{_HERE}: nothing is searched for",
}
_UNUSED = frozenset(
    (
        "metadata",
        "modalities",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "stream_options",
        "user",
        "verbosity",
    )
)
# What a client may write into the log: so many names, so many characters of each.
_NAMES = 8
_LENGTH = 40


def unknown(fields: Fields, read: Set[str]) -> tuple[str, ...]:
    """Names of fields that aren't null and that nobody looks at, for the log: neither those of this module nor `read`,
    the API's own. At most eight, in order, each cut to 40 characters.
    """
    names = fields.value.keys() - read - _UNSUPPORTED.keys() - _UNUSED
    return tuple(name[:_LENGTH] for name in sorted(names) if fields.value[name] is not None)[:_NAMES]


def refuse_unsupported(fields: Fields, more: Mapping[str, str] | None = None) -> None:
    """Raises RequestError for a field that can't be honoured; `more`: others of this API, and why. One that is null,
    false, empty or zero asks for nothing.
    """
    for key, reason in {**_UNSUPPORTED, **(more or {})}.items():
        if fields.value.get(key):
            raise RequestError(reason, fields.at(key))


def check_unused(fields: Fields) -> None:
    """Raises RequestError for a field that changes nothing here, and is no such field."""
    for key in ("user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"):
        fields.string(key)
    fields.object("prompt_cache_options")
    fields.object("stream_options").boolean("include_obfuscation", default=True)
    fields.one_of("service_tier", *TIERS)
    fields.one_of("verbosity", *VERBOSITIES)
    fields.boolean("store", default=False)
    fields.object("prediction")
    metadata_of(fields)
    for i, modality in enumerate(fields.list("modalities", optional=True)):
        if modality != "text":
            raise RequestError(f"expected text, got {modality!r}: answers are text only here", f"modalities[{i}]")


def metadata_of(fields: Fields) -> dict[str, str]:
    """What a client would find its requests again by."""
    metadata = fields.object("metadata")
    for key in metadata.value:
        if metadata.string(key) is None:
            raise RequestError("expected a string, got null", metadata.at(key))
    return dict(metadata.value)
