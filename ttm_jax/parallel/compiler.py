"""What the compiler is told besides the program."""

from collections.abc import Callable
from typing import Any

import jax

from ttm_jax.parallel.mesh import platform

# Left alone, the compiler for TPUs cuts a product with a weight that lies in parts into as many
# products, one for each part as it comes from a neighbour, and adds them up in memory. In wide
# layers that hides the exchange. Where there are sixteen parts of a few hundred channels, little is
# left of a product: the U-Net's train step then holds 65 GB on a v5p besides its state (machine
# code included), and 11 GB (without) with weights gathered first.
GATHER = {
  'xla_tpu_enable_windowed_einsum_for_all_gather': False,
  'xla_tpu_enable_windowed_einsum_for_reduce_scatter': False,
}

# On GPUs the configuration says what is computed again (`remat`), and that alone. From four fifths
# of the memory on XLA would do so of its own accord: it may where a program wants a third more. And
# a product that is used at once and also kept, in the array of all layers, it would compute twice,
# each time into its place: 'dots' would then compute as much as 'full'. Nor does that array need
# zeros first, where every layer writes its part.
GPU: dict[str, Any] = {
  'xla_gpu_memory_limit_slop_factor': 130,
  'xla_gpu_enable_dynamic_slice_fusion': False,
  'xla_gpu_enable_dus_accumulator_zero_init_elimination': True,
}

# For a program that runs once, of many small kernels: compiling them well would take ten times as
# long.
QUICK: dict[str, Any] = {'xla_backend_optimization_level': 0}
if jax.__version_info__ < (0, 11):  # Later compilers are without it.
  QUICK['xla_cpu_use_fusion_emitters'] = False


def jit(
  function: Callable[..., Any], *, gather: bool = False, once: bool = False, **options: Any
) -> Any:
  """jax.jit, for the platform of the mesh in force.

  Args:
    gather: whether weights that lie in parts are gathered before they are used.
    once: whether it runs but once.
    options: as jax.jit takes them.
  """
  chosen = {
    'tpu': GATHER if gather else None,
    'gpu': GPU,
    'cpu': QUICK if once else None,
  }.get(platform())
  return jax.jit(function, compiler_options=chosen, **options)
