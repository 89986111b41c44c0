"""Count the floating-point operations of a function on its jaxpr, without compiling it.

Counts matrix products, convolutions and Pallas kernels, with loop trip counts and recomputation in
the backward pass. Dead code is not counted, because compilers remove it. For a function on a mesh
the count is the sum over all devices.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jax.interpreters.partial_eval import dce_jaxpr


def count(function: Callable, *args: Any) -> float:
  """Return the FLOPs of function(*args).

  Args:
    function: a function that JAX can trace.
    *args: arrays or `jax.ShapeDtypeStruct`s.
  """
  jaxpr = jax.make_jaxpr(function)(*args).jaxpr
  used, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return _of_jaxpr(used)


def _of_jaxpr(jaxpr: Any) -> float:
  # dce_jaxpr keeps unused kernels (jax 0.10.2).
  used = {id(x) for x in itertools.chain(jaxpr.outvars, *(e.invars for e in jaxpr.eqns))}
  return sum(_of_equation(e) for e in jaxpr.eqns if any(id(x) in used for x in e.outvars))


def _of_equation(equation: Any) -> float:
  name, params = equation.primitive.name, equation.params
  if name == 'dot_general':
    (contracted, _), _ = params['dimension_numbers']
    left = equation.invars[0].aval.shape
    return 2.0 * equation.outvars[0].aval.size * math.prod(left[i] for i in contracted)
  if name == 'conv_general_dilated':
    return _convolution(equation)
  if name == 'pallas_call':
    said = params.get('cost_estimate')
    return float(said.flops) if said is not None else 0.0
  inside = list(_inner(params))
  if name == 'cond':
    return max(map(_of_jaxpr, inside), default=0.0)
  times = 1.0
  if name == 'scan':
    times = params['length']
  elif name == 'shard_map':
    times = math.prod(params['mesh'].shape[axis] for axis in params['manual_axes'])
  return times * sum(map(_of_jaxpr, inside))


def _convolution(equation: Any) -> float:
  """Return 2 x the products of outputs and weights, without those on padding or dilation zeros."""
  data, kernel = (x.aval.shape for x in equation.invars)
  out, params = equation.outvars[0].aval.shape, equation.params
  dims = params['dimension_numbers']
  pairs = 1.0
  for axis in range(len(params['window_strides'])):
    pairs *= meetings(
      data[dims.lhs_spec[2 + axis]],
      kernel[dims.rhs_spec[2 + axis]],
      out[dims.out_spec[2 + axis]],
      stride=params['window_strides'][axis],
      low=params['padding'][axis][0],
      holes=params['lhs_dilation'][axis],
      spread=params['rhs_dilation'][axis],
    )
  batch, features = out[dims.out_spec[0]], out[dims.out_spec[1]]
  each = kernel[dims.rhs_spec[1]]
  return 2.0 * batch * features * each * pairs / params['batch_group_count']


def meetings(
  data: int, kernel: int, out: int, *, stride: int, low: int, holes: int, spread: int
) -> int:
  """Return how many (output, weight) pairs along one axis multiply an element of the data.

  Pairs that fall on padding or dilation zeros are not counted.

  Args:
    data: size of the data along the axis.
    kernel: size of the kernel along the axis.
    out: size of the output along the axis.
    stride: window stride.
    low: padding before the data.
    holes: dilation of the data (`lhs_dilation`).
    spread: dilation of the kernel (`rhs_dilation`).
  """
  # Output i multiplies weight j with position i * stride + begin[j] of the dilated data.
  begin = np.arange(kernel, dtype=np.int64) * spread - low
  first = np.maximum(0, -(begin // stride))
  last = np.minimum(out - 1, ((data - 1) * holes - begin) // stride)
  # If gcd(stride, holes) divides begin, one of every `period` consecutive outputs falls on an
  # element; otherwise none does.
  shared = math.gcd(stride, holes)
  period = holes // shared
  some = -(begin // shared) * pow(stride // shared, -1, period) % period
  count = (last - some) // period - (first - 1 - some) // period
  return int(count[(last >= first) & (begin % shared == 0)].sum())


def _inner(params: dict[str, Any]) -> Iterator[Any]:
  """Yield the jaxprs that an equation executes."""
  for name, value in params.items():
    if name in ('cond_jaxpr', 'fwd_jaxpr_thunk', 'bwd', 'jvp_jaxpr_fun'):
      continue
    for one in value if isinstance(value, tuple | list) else (value,):
      if isinstance(one, core.ClosedJaxpr):
        yield one.jaxpr
      elif isinstance(one, core.Jaxpr):
        yield one
