"""XLA compiler options by platform."""

from collections.abc import Callable
from typing import Any

import jax

from ttm_jax.parallel.mesh import platform

# By default the TPU compiler splits a matrix multiplication with a sharded weight into one per
# shard (windowed einsum), as the shards arrive from neighbors, and adds the results up in memory.
# In wide layers this overlaps communication with compute. With 16 shards of a few hundred channels
# the partial products are too small. The U-Net's train step then takes 65 GB on a v5p besides its
# state (machine code included), but 11 GB (without machine code) if weights are all-gathered first.
GATHER = {
  'xla_tpu_enable_windowed_einsum_for_all_gather': False,
  'xla_tpu_enable_windowed_einsum_for_reduce_scatter': False,
}

# On GPUs only the configuration (`remat`) should decide about rematerialization.
# - XLA rematerializes by itself once a program exceeds 80 % of the memory. The slop factor raises
#   that limit by 30 %.
# - Dynamic slice fusion computes a product twice if it is used at once and also saved in the
#   stacked array of all layers. The policy 'dots' would then compute as much as 'full'.
# - The stacked array needs no zero initialization, because every layer writes its slice.
GPU: dict[str, Any] = {
  'xla_gpu_memory_limit_slop_factor': 130,
  'xla_gpu_enable_dynamic_slice_fusion': False,
  'xla_gpu_enable_dus_accumulator_zero_init_elimination': True,
}

# For programs that run once and have many small kernels: full optimization would make compilation
# ten times slower.
QUICK: dict[str, Any] = {'xla_backend_optimization_level': 0}
if jax.__version_info__ < (0, 11):  # Removed from later compilers.
  QUICK['xla_cpu_use_fusion_emitters'] = False


def jit(
  function: Callable[..., Any], *, gather: bool = False, once: bool = False, **options: Any
) -> Any:
  """Apply jax.jit with compiler options for the platform of the current mesh.

  Args:
    function: the function to compile.
    gather: whether to all-gather sharded weights before use (TPU).
    once: whether the program runs only once; compiles faster (CPU).
    options: keyword arguments of jax.jit.

  Returns:
    The jitted function.
  """
  chosen = {
    'tpu': GATHER if gather else None,
    'gpu': GPU,
    'cpu': QUICK if once else None,
  }.get(platform())
  return jax.jit(function, compiler_options=chosen, **options)
