"""What TensorRT-LLM takes: its own request models of 1.2 and later (tensorrt_llm/serve/openai_protocol.py)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

# xgrammar 0.1.32's formats by their members. One that isn't among them is refused where the request is read.
_FORMATS: dict[str, set[str]] = {
    "const_string": {"value"},
    "json_schema": {"json_schema", "style"},
    "qwen_xml_parameter": {"json_schema"},
    "any_text": {"excludes"},
    "grammar": {"grammar"},
    "regex": {"pattern"},
    "sequence": {"elements"},
    "or": {"elements"},
    "tag": {"begin", "content", "end"},
    "triggered_tags": {"triggers", "tags", "at_least_one", "stop_after_first", "excludes"},
    "tags_with_separator": {"tags", "separator", "at_least_one", "stop_after_first"},
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class StreamOptions(_Strict):
    include_usage: bool | None = True
    continuous_usage_stats: bool | None = False


class ResponseFormat(_Strict):
    type: Literal["text", "json", "json_schema", "json_object", "regex", "ebnf", "structural_tag"]
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    json_schema: dict[str, Any] | None = None
    regex: str | None = None
    ebnf: str | None = None
    format: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _knows_the_format(self) -> ResponseFormat:
        if self.format is not None:
            _check(self.format)
        return self


def _check(node: Any) -> None:
    kind = node.get("type") if isinstance(node, dict) else None
    if kind not in _FORMATS:
        raise ValueError(f"expected one of xgrammar's formats, got {kind!r}")
    if unknown := node.keys() - _FORMATS[kind] - {"type"}:
        # Pydantic drops what these models don't know; a member that is lost is a constraint that is.
        raise ValueError(f"{kind} has no {', '.join(sorted(unknown))}")
    for child in (*node.get("elements", ()), *node.get("tags", ()), *((node["content"],) if "content" in node else ())):
        _check(child)


class _Sampling(_Strict):
    model: str
    frequency_penalty: float | None = 0.0
    logit_bias: dict[str, float] | None = None
    n: int = 1
    presence_penalty: float | None = 0.0
    seed: int | None = None
    stop: str | list[str] | None = Field(default_factory=list)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    user: str | None = None
    lora_request: dict[str, JsonValue] | None = None
    prompt_ignore_length: int | None = 0
    best_of: int | None = None
    use_beam_search: bool = False
    top_k: int = 0
    top_p_min: float = 0.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] | None = None
    stop_token_ids: list[int] | None = Field(default_factory=list)
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    truncate_prompt_tokens: Annotated[int, Field(ge=1)] | None = None
    response_format: ResponseFormat | None = None
    disaggregated_params: dict[str, JsonValue] | None = None
    priority: Annotated[float, Field(ge=0.0, le=1.0)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _streams(cls, data: Any) -> Any:
        if data.get("stream_options") and not data.get("stream"):
            raise ValueError("Stream options can only be defined when stream is true.")
        return data


class CompletionRequest(_Sampling):
    prompt: list[int] | list[list[int]] | str | list[str]
    echo: bool | None = False
    logprobs: int | None = None
    max_tokens: int | None = None
    suffix: str | None = None
    return_context_logits: bool = False
    detokenize: bool = True
    add_special_tokens: bool = True

    @model_validator(mode="before")
    @classmethod
    def _has_no_suffix(cls, data: Any) -> Any:
        if data.get("suffix"):
            raise ValueError("suffix is not supported")
        return data


class _Function(_Strict):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _Tool(_Strict):
    type: Literal["function"] = "function"
    function: _Function


class _Name(_Strict):
    name: str


class _Named(_Strict):
    function: _Name
    type: Literal["function"] = "function"


class ChatCompletionRequest(_Sampling):
    messages: list[dict[str, Any]]
    logprobs: bool | None = False
    top_logprobs: int | None = 0
    # Under its other name `max_tokens`: with both, one is unknown.
    max_completion_tokens: int | None = Field(None, validation_alias="max_tokens")
    tools: list[_Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | _Named | None = "none"
    reasoning_effort: Literal["low", "medium", "high"] | None = "low"
    echo: bool = False
    add_generation_prompt: bool = True
    add_special_tokens: bool = False
    documents: list[dict[str, str]] | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    cache_salt: str | None = None
