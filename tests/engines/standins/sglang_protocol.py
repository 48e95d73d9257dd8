"""What SGLang 0.5.23 takes: its own request models (python/sglang/srt/entrypoints/openai/protocol.py).

A field that they don't know is dropped. Fields that tell of its own parts (routing, LoRA, images) are left out.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, StrictBool, field_validator


class StreamOptions(BaseModel):
    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class JsonSchema(BaseModel):
    name: str
    description: str | None = None
    schema_: dict[str, object] | None = Field(None, alias="schema")
    strict: StrictBool | None = None


class ResponseFormat(BaseModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Structure(BaseModel):
    begin: str
    schema_: dict[str, object] | None = Field(None, alias="schema")
    end: str


class LegacyStructuralTag(BaseModel):
    type: Literal["structural_tag"]
    structures: list[Structure]
    triggers: list[str]
    at_least_one: bool = False


class StructuralTag(BaseModel):
    """xgrammar's own model is here, where it is checked once more when it is compiled."""

    type: Literal["structural_tag"]
    format: dict[str, Any]


class CompletionRequest(BaseModel):
    model: str = "default"
    prompt: list[int] | list[list[int]] | str | list[str]
    best_of: int | None = None
    echo: bool = False
    frequency_penalty: float = 0.0
    logit_bias: dict[str, float] | None = None
    logprobs: int | None = None
    max_tokens: int = 16
    n: int = 1
    presence_penalty: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    suffix: str | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    user: str | None = None
    return_hidden_states: bool | Literal["last"] = False
    return_token_ids: bool = False
    top_k: int = -1
    min_p: float = 0.0
    min_tokens: int = 0
    json_schema: str | None = None
    regex: str | None = None
    ebnf: str | None = None
    repetition_penalty: float = 1.0
    stop_token_ids: list[int] | None = None
    stop_regex: str | list[str] | None = None
    no_stop_trim: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    session_params: dict[str, Any] | None = None
    response_format: ResponseFormat | LegacyStructuralTag | StructuralTag | None = None
    custom_params: dict[str, Any] | None = None
    custom_logit_processor: str | None = None
    rid: list[str] | str | None = None
    extra_key: list[str] | str | None = None
    cache_salt: list[str] | str | None = None
    priority: int | None = None

    @field_validator("max_tokens")
    @classmethod
    def _is_positive(cls, value: int) -> int:
        if value <= 0:
            raise ValueError("max_tokens must be positive")
        return value


class TokenizeRequest(BaseModel):
    model: str = "default"
    prompt: str | list[str]
    add_special_tokens: bool = True
