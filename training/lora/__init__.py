"""LoRA training of a small Llama on the CPU, and export as a GGUF adapter.

What makes it fast on two cores, in the order of what it brings:
- bfloat16 matrix products (AMX) over packed sequences, attention a sequence at a time;
- no autograd: the backward pass is written out, nothing is computed for frozen weights, and the adapter is merged into
  the base once a step, so that a linear layer is one product either way;
- a process a core, each with its own part of the step, instead of threads that wait for each other at every operation;
- few different shapes: a new one costs seconds (kernels are generated for it), so every batch has the same number of
  tokens and sequences are padded to a multiple of `batches.ALIGN`;
- conversations that begin alike as a tree: what they share is computed once;
- the LM head only at the positions that carry a loss weight;
- the element-wise parts fused by torch.compile;
- an allocator that keeps its memory (`__main__.ENVIRONMENT`).
"""
