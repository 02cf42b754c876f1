"""Which C files of firmware/ a model needs: from the functions it calls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from picoformer.errors import UnsupportedError
from picoformer.targets import resource_root

_EXPERTS_F32 = ("ops/experts_f32.c", "ops/linear_f32.c", "ops/softmax_f32.c", "ops/float_math.c")
_DECODE_F32 = ("ops/decode_f32.c", "ops/float_math.c")

FILES: dict[str, tuple[str, ...]] = {
    "pf_absolute_f32": ("ops/functions_f32.c", "ops/float_math.c"),
    "pf_add_": ("ops/add.c", "kernels/add_plain_span.c", "kernels/add_span.c"),
    "pf_add_f32": ("ops/elementwise_f32.c",),
    "pf_attention_f32": ("ops/attention_f32.c", "ops/float_math.c"),
    "pf_attention_s16_": ("ops/attention_s16.c", "kernels/attention_head_s16.c"),
    "pf_attention_s8_": ("ops/attention_s8.c", "kernels/attention_head_s8.c"),
    "pf_average_pool_": ("kernels/average_pool.c",),
    "pf_average_pool_f32": ("ops/window_f32.c",),
    "pf_cached_attention_f32": _DECODE_F32,
    "pf_cached_attention_s16_": ("ops/cached_attention_s16.c", "kernels/cached_attention_group_s16.c"),
    "pf_cached_attention_s8_": ("ops/cached_attention_s8.c", "kernels/cached_attention_group_s8.c"),
    "pf_celu_f32": ("ops/functions_f32.c", "ops/float_math.c"),
    "pf_clip_f32": ("ops/functions_f32.c", "ops/float_math.c"),
    "pf_copy_blocks": ("kernels/copy.c",),
    "pf_depthwise_": ("kernels/depthwise.c",),
    "pf_depthwise_f32": ("ops/window_f32.c",),
    "pf_elu_f32": ("ops/functions_f32.c", "ops/float_math.c"),
    "pf_embedding_": ("ops/embedding.c", "kernels/embedding_row_s8.c", "kernels/requantize.c"),
    "pf_embedding_f32": ("ops/embedding_f32.c",),
    "pf_error_function_f32": ("ops/functions_f32.c", "ops/float_math.c"),
    "pf_expert_linear_f32": _EXPERTS_F32,
    "pf_expert_linear_s16_": ("ops/expert_linear_s16.c", "kernels/linear_s16.c"),
    "pf_expert_linear_s4_s16_": ("ops/expert_linear_s4_s16.c", "kernels/linear_s4_s16.c"),
    "pf_expert_linear_s4_s8_": ("ops/expert_linear_s4_s8.c", "kernels/linear_s4_s8.c"),
    "pf_expert_linear_s8_": ("ops/expert_linear_s8.c", "kernels/linear_s8.c"),
    "pf_expert_linear_wide_s16_": ("ops/expert_linear_wide_s16.c", "kernels/linear_wide_s16.c"),
    "pf_expert_linear_wide_s4_s16_": ("ops/expert_linear_wide_s4_s16.c", "kernels/linear_wide_s4_s16.c"),
    "pf_expert_weights_": ("ops/experts.c",),
    "pf_expert_weights_f32": _EXPERTS_F32,
    "pf_exponential_f32": ("ops/functions_f32.c", "ops/float_math.c"),
    "pf_gelu_f32": ("ops/activation_f32.c", "ops/float_math.c"),
    "pf_gelu_tanh_f32": ("ops/activation_f32.c", "ops/float_math.c"),
    "pf_hard_sigmoid_f32": ("ops/functions_f32.c", "ops/float_math.c"),
    "pf_hard_swish_f32": ("ops/functions_f32.c", "ops/float_math.c"),
    "pf_interpolate_": ("kernels/interpolate.c",),
    "pf_kv_append_": ("kernels/kv_append.c",),
    "pf_kv_append_f32": _DECODE_F32,
    "pf_layer_norm_": ("kernels/layer_norm.c", "kernels/layer_norm_row.c"),
    "pf_layer_norm_f32": ("ops/layer_norm_f32.c", "ops/float_math.c"),
    "pf_leaky_relu_f32": ("ops/functions_f32.c", "ops/float_math.c"),
    "pf_linear_f32": ("ops/linear_f32.c",),
    "pf_linear_s16_": ("kernels/linear_s16.c",),
    "pf_linear_s16_s16_": ("kernels/linear_s16_s16.c",),
    "pf_linear_s16_s8_": ("kernels/linear_s16_s8.c",),
    "pf_linear_s4_s16_": ("kernels/linear_s4_s16.c",),
    "pf_linear_s4_s8_": ("kernels/linear_s4_s8.c",),
    "pf_linear_s8_": ("kernels/linear_s8.c",),
    "pf_linear_wide_s16_": ("kernels/linear_wide_s16.c",),
    "pf_linear_wide_s4_s16_": ("kernels/linear_wide_s4_s16.c",),
    "pf_logarithm_f32": ("ops/functions_f32.c", "ops/float_math.c"),
    "pf_max_pool_f32": ("ops/window_f32.c",),
    "pf_max_pool_s": ("kernels/max_pool.c",),
    "pf_mish_f32": ("ops/functions_f32.c", "ops/float_math.c"),
    "pf_mul_": ("ops/mul.c", "kernels/mul_span.c"),
    "pf_mul_f32": ("ops/elementwise_f32.c",),
    "pf_patches": ("ops/patches.c",),
    "pf_position_ids": ("ops/block.c",),
    "pf_reciprocal_f32": ("ops/functions_f32.c", "ops/float_math.c"),
    "pf_reduce_mean_": ("kernels/reduce_mean.c",),
    "pf_reduce_mean_f32": ("ops/reduce_mean_f32.c",),
    "pf_relative_attention_f32": ("ops/relative_attention_f32.c", "ops/float_math.c"),
    "pf_relative_attention_s16": ("ops/relative_attention_s16.c",),
    "pf_relu_f32": ("ops/activation_f32.c", "ops/float_math.c"),
    "pf_requantize_": ("kernels/requantize.c",),
    "pf_rms_norm_": ("kernels/rms_norm.c",),
    "pf_rms_norm_f32": ("ops/rms_norm_f32.c", "ops/float_math.c"),
    "pf_rope_f32": _DECODE_F32,
    "pf_rope_s16": ("kernels/rope.c",),
    "pf_scale_rows_": ("ops/scale_rows.c", "kernels/mul_span.c"),
    "pf_scale_rows_f32": _EXPERTS_F32,
    "pf_selu_f32": ("ops/functions_f32.c", "ops/float_math.c"),
    "pf_sigmoid_f32": ("ops/activation_f32.c", "ops/float_math.c"),
    "pf_silu_f32": ("ops/activation_f32.c", "ops/float_math.c"),
    "pf_softmax_": ("ops/softmax.c",),
    "pf_softmax_f32": ("ops/softmax_f32.c", "ops/float_math.c"),
    "pf_softplus_f32": ("ops/functions_f32.c", "ops/float_math.c"),
    "pf_softsign_f32": ("ops/functions_f32.c", "ops/float_math.c"),
    "pf_square_root_f32": ("ops/functions_f32.c", "ops/float_math.c"),
    "pf_swish_f32": ("ops/functions_f32.c", "ops/float_math.c"),
    "pf_table_": ("kernels/table.c",),
    "pf_take_row": ("ops/block.c",),
    "pf_tanh_f32": ("ops/activation_f32.c", "ops/float_math.c"),
    "pf_top_experts_": ("ops/experts.c",),
    "pf_top_experts_f32": _EXPERTS_F32,
    "pf_transpose": ("ops/transpose.c",),
}
"""How a function's name starts → the files behind it; the longest start counts. `kernels/` stands for the directory of
the first instruction set that has the file."""

BESIDE: dict[str, tuple[str, ...]] = {
    "kernels/dsp/cached_attention_group_s": ("word_rows.c",),
    "kernels/dsp/linear_s16.c": ("linear_strip.c",),
    "kernels/dsp/linear_s16_s16": ("word_rows.c",),
    "kernels/dsp/linear_s16_single": ("linear_strip.c", "linear_vector.c", "linear_vector_joined.c"),
    "kernels/dsp/linear_s4_s16": ("linear_strip.c",),
    "kernels/dsp/linear_s4_s16_single": ("linear_vector.c", "linear_vector_s4.c"),
    "kernels/dsp/linear_s4_s8": ("linear_strip.c",),
    "kernels/dsp/linear_s8": ("linear_strip.c",),
    "kernels/dsp/linear_wide_s16": ("linear_vector.c", "linear_vector_joined.c"),
}
"""How a kernel file of one instruction set starts → the files in its directory that such ones share."""


def sources_of(functions: Iterable[str], target_isa: Sequence[str], single_rows: bool = False) -> tuple[str, ...]:
    """C files, relative to the firmware folder, sorted; UnsupportedError for a kernel that no instruction set has.

    `single_rows`: kernels that are for these where there are such.
    """
    found: set[str] = set()
    for file in {file for function in functions for file in files_behind(function)}:
        name = file.removeprefix("kernels/")
        found.update((file,) if name == file else kernel_files(name, target_isa, single_rows))
    return tuple(sorted(found))


def files_behind(function: str) -> tuple[str, ...]:
    """The entry of FILES for a function; KeyError when there is none, which is a fault of the table."""
    starts = [start for start in FILES if function.startswith(start)]
    if not starts:
        raise KeyError(function)
    return FILES[max(starts, key=len)]


def kernel_place(name: str, target_isa: Sequence[str], single_rows: bool = False) -> tuple[str, str]:
    """The first instruction set of a target's list that has the kernel file `name`, and the file's name there, which
    for `single_rows` ends in `_single` where there are both; UnsupportedError when none has it."""
    kernels = resource_root("firmware") / "kernels"
    single = f"{name.removesuffix('.c')}_single.c"
    for isa in target_isa:
        for file in (single, name) if single_rows else (name,):
            if (kernels / isa / file).is_file():
                return isa, file
    raise UnsupportedError(
        f"no kernel {name} for the instruction sets {', '.join(target_isa)}; put 'generic' last in the target's list"
    )


def kernel_files(name: str, target_isa: Sequence[str], single_rows: bool = False) -> tuple[str, ...]:
    """The kernel file `name` for a target and what it shares with others, relative to the firmware folder."""
    isa, found = kernel_place(name, target_isa, single_rows)
    folder = f"kernels/{isa}"
    file = f"{folder}/{found}"
    shared = (name for start, names in BESIDE.items() if file.startswith(start) for name in names)
    return (file, *(f"{folder}/{name}" for name in shared))
