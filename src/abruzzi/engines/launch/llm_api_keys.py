"""The keys of TensorRT-LLM's YAML and what they hold: those of `TorchLlmArgs`, `KvCacheConfig`, `CudaGraphConfig` and
`MoeConfig` in tensorrt_llm/llmapi/llm_args.py, versions 1.0 to 1.3 together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Kind:
    """What a key holds. `choices` are a text's."""

    type: Literal["true or false", "an integer", "a number", "a text", "keys and values", "a list of integers", "any"]
    choices: tuple[str, ...] = ()
    is_optional: bool = False
    """Whether null is a value of it."""


_YES_NO = Kind("true or false")
_INTEGER = Kind("an integer")
_MAYBE_INTEGER = Kind("an integer", is_optional=True)
_NUMBER = Kind("a number")
_MAYBE_NUMBER = Kind("a number", is_optional=True)
_TEXT = Kind("a text")
_MAYBE_TEXT = Kind("a text", is_optional=True)
_SECTION = Kind("keys and values")
_MAYBE_SECTION = Kind("keys and values", is_optional=True)
_INTEGERS = Kind("a list of integers", is_optional=True)


def _each(kind: Kind, names: str) -> dict[str, Kind]:
    return dict.fromkeys(names.split(), kind)


RENAMED: Mapping[tuple[str, str], str] = {
    ("", "autotuner_enabled"): "enable_autotuner",
    ("", "cuda_graph_batch_sizes"): "cuda_graph_config: {batch_sizes: ...}",
    ("", "cuda_graph_max_batch_size"): "cuda_graph_config: {max_batch_size: ...}",
    ("", "cuda_graph_padding_enabled"): "cuda_graph_config: {enable_padding: ...}",
    ("", "mixed_sampler"): "enable_mixed_sampler",
    ("", "moe_backend"): "moe_config: {backend: ...}",
    ("", "moe_load_balancer"): "moe_config: {load_balancer: ...}",
    ("", "moe_max_num_tokens"): "moe_config: {max_num_tokens: ...}",
    ("", "pytorch_backend_config"): "no section any more: its keys stand at the top",
    ("", "use_cuda_graph"): "cuda_graph_config: {} for true, cuda_graph_config: null for false",
    ("cuda_graph_config", "padding_enabled"): "enable_padding",
}
"""By place and name, keys that versions before 1.0 had (0.18 to 1.0's candidates), and what they are since."""

PLACES: Mapping[str, Mapping[str, Kind]] = {
    "": {
        **_each(
            _YES_NO,
            """disable_mm_encoder disable_overlap_scheduler enable_attention_dp enable_autotuner enable_chunked_prefill
            enable_early_first_token_response enable_energy_metrics enable_in_graph_sampling enable_iter_perf_stats
            enable_iter_req_stats enable_layerwise_nvtx_marker enable_lm_head_tp_in_adp enable_lora
            enable_low_latency_host_dispatch enable_min_latency enable_mixed_sampler enable_mla_skip_correction
            enable_resource_governor enable_speculative_beam_history_d2h enable_trtllm_sampler encode_only
            fail_fast_on_attention_window_too_large force_dynamic_quantization gather_generation_logits mm_encoder_only
            normalize_log_probs print_iter_log return_perf_metrics sampler_force_async_worker skip_tokenizer_init
            trust_remote_code use_cute_dsl_bf16_bmm use_cute_dsl_bf16_gemm use_cute_dsl_blockscaling_bmm
            use_cute_dsl_blockscaling_mm use_fine_grained_sync""",
        ),
        **_each(
            _INTEGER,
            """batch_wait_timeout_iters context_parallel_size garbage_collection_gen0_threshold max_stats_len
            num_postprocess_workers num_serve_frontends perf_metrics_max_requests pipeline_parallel_size stream_interval
            tensor_parallel_size""",
        ),
        **_each(
            _MAYBE_INTEGER,
            """gpus_per_node iter_stats_max_iterations max_batch_size max_beam_width max_input_len max_num_tokens
            max_seq_len moe_cluster_parallel_size moe_expert_parallel_size moe_tensor_parallel_size
            request_stats_max_iterations""",
        ),
        **_each(_NUMBER, "batch_wait_max_tokens_ratio batch_wait_timeout_ms mla_skip_correction_threshold"),
        **_each(_TEXT, "attn_backend dtype kv_cache_dtype model tokenizer_mode"),
        **_each(
            _MAYBE_TEXT,
            """allreduce_strategy backend checkpoint_format custom_tokenizer orchestrator_type otlp_traces_endpoint
            perf_metrics_output_dir post_processor_hook postprocess_tokenizer_dir ray_worker_extension_cls
            reasoning_parser revision tokenizer tokenizer_revision""",
        ),
        **_each(_SECTION, "kv_cache_config moe_config scheduler_config"),
        **_each(
            _MAYBE_SECTION,
            """cache_transceiver_config cp_config cuda_graph_config env_overrides kv_cache_compression_config
            kv_connector_config lora_config model_kwargs peft_cache_config prometheus_metrics_config
            reorder_policy_config sleep_config sparse_attention_config speculative_config torch_compile_config""",
        ),
        **_each(_INTEGERS, "pp_partition prefill_capture_num_tokens"),
        "guided_decoding_backend": Kind("a text", ("xgrammar", "llguidance"), is_optional=True),
        **_each(
            Kind("any", is_optional=True),
            """attention_dp_config batching_type build_config checkpoint_io_policy checkpoint_loader disagg_cluster
            gms_config layer_wise_benchmarks_config load_format multimodal_config mx_config nvfp4_gemm_config
            prefill_cuda_graph_backend quant_config ray_placement_config ray_worker_nsight_options sampler_type
            telemetry_config""",
        ),
    },
    "cuda_graph_config": {
        "batch_sizes": _INTEGERS,
        "enable_padding": _YES_NO,
        "max_batch_size": _INTEGER,
        "mode": _TEXT,
        **_each(_INTEGER, "max_num_token max_seq_len"),
        **_each(_INTEGERS, "num_tokens seq_lens"),
    },
    "kv_cache_config": {
        **_each(_YES_NO, "copy_on_partial_reuse enable_block_reuse enable_partial_reuse onboard_blocks use_uvm"),
        **_each(_INTEGER, "attention_dp_events_gather_period_ms event_buffer_max_size tokens_per_block"),
        **_each(
            _MAYBE_INTEGER,
            "host_cache_size max_gpu_total_bytes max_tokens secondary_offload_min_priority sink_token_length",
        ),
        **_each(_MAYBE_NUMBER, "cross_kv_cache_fraction free_gpu_memory_fraction max_util_for_resume"),
        **_each(_TEXT, "dtype mamba_ssm_cache_dtype"),
        "max_attention_window": _INTEGERS,
        **_each(
            Kind("any", is_optional=True),
            "disk_cache_path disk_cache_size mamba_state_cache_interval use_kv_cache_manager_v2",
        ),
    },
    "moe_config": {
        **_each(_YES_NO, "disable_finalize_fusion use_low_precision_moe_combine"),
        "backend": _TEXT,
        "max_num_tokens": _MAYBE_INTEGER,
        "load_balancer": Kind("any", is_optional=True),
    },
}
