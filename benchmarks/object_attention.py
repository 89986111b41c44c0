"""Compare object attention with other attention implementations on this machine.

    python -m benchmarks.object_attention

Times the forward pass, and forward plus backward, on tokens sorted by object. Compares:

- our implementation
- dense attention with a mask (JAX)
- cuDNN attention, dense and packed (on GPUs)
- FlexAttention (compiled) and scaled_dot_product_attention, if PyTorch is installed

Prints median milliseconds and the time relative to ours, then the hardware utilization and a time
breakdown of ours.

Defaults: on CPUs 4,096 tokens and 8 heads of dimension 64 in float32; on accelerators 4,096 to
65,536 tokens and head dimensions 40, 64 and 128 in bfloat16.
"""

import argparse
import dataclasses
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ttm_jax.arguments import command_parser

# JAX and PyTorch share the memory of a GPU.
os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import packed_attention  # noqa: F401  Registers 'packed'.
from ttm_jax.ops.object_attention import (
  IMPLEMENTATIONS,
  BlockMask,
  Case,
  choose,
  make_block_mask,
  object_attention,
)

Array = jax.Array
# (start the work, wait for its result) -> milliseconds per call.
Timer = Callable[[Callable, Callable], float]
# A name, and the milliseconds of the forward pass and of forward plus backward.
Row = tuple[str, tuple[float, float]]
NEVER = float('nan')
# Most tokens for dense attention with a mask, which stores (nearly) all scores.
DENSE_TOKENS = 16384


@dataclasses.dataclass(frozen=True)
class Problem:
  """Self-attention of one sample with tokens sorted by object.

  Attributes:
    tokens: number of tokens, N.
    heads: number of heads, H.
    head_dim: dimension of a head, D.
    dtype: name of the dtype of q, k and v.
    shares: percentage of the tokens of each object.
  """

  tokens: int
  heads: int
  head_dim: int
  dtype: str
  shares: tuple[int, ...]

  @property
  def name(self) -> str:
    """A readable description of the problem."""
    shares = ' + '.join(map(str, self.shares))
    return (
      f'{self.tokens} tokens, {self.heads} heads x {self.head_dim}, {self.dtype}, shares {shares} %'
    )

  @property
  def bits(self) -> np.ndarray:
    """Object sets of the tokens, int32 [1, N]; each has one bit."""
    ends = np.round(np.cumsum(self.shares) / sum(self.shares) * self.tokens).astype(int)
    return (1 << np.searchsorted(ends, np.arange(self.tokens), side='right')).astype(np.int32)[None]

  @property
  def allowed(self) -> int:
    """Number of (query, key) pairs per head that may attend to each other."""
    return int((np.unique(self.bits, return_counts=True)[1].astype(np.int64) ** 2).sum())

  def arrays(self) -> list[np.ndarray]:
    """Return random q, k, v and cotangent, float32 [1, N, H, D]."""
    rng = np.random.default_rng(0)
    shape = (1, self.tokens, self.heads, self.head_dim)
    return [rng.standard_normal(shape, np.float32) for _ in range(4)]


def main() -> None:
  args = parser().parse_args()
  console = Console()
  in_a_row = 1 if jax.default_backend() == 'cpu' else 10
  timer = partial(median, repeat=args.repeat, in_a_row=in_a_row)
  if args.block:
    for name, implementation in IMPLEMENTATIONS.items():
      if implementation.block is not None:
        IMPLEMENTATIONS[name] = dataclasses.replace(implementation, block=lambda case: args.block)
  peak = matmul_rate(args.dtype, timer)
  device = jax.devices()[0].device_kind
  console.print(f'{device}: {peak / 1e12:.2f} TFLOP/s in matrix products\n')
  found = {'device': device, 'peak': peak, 'problems': []}
  for tokens, head_dim, shares in itertools.product(args.tokens, args.head_dim, args.shares):
    problem = Problem(tokens, args.heads, head_dim, args.dtype, shares)
    rows = jax_rows(problem, timer, args.implementation) + torch_rows(problem, timer, console)
    console.print(table(problem, rows))
    parts = where_time_goes(problem, timer, args.implementation)
    use = utilisation(problem, parts.pop('blocks'), rows[0][1], peak)
    console.print('   '.join(f'{name}: {ms:.2f} ms' for name, ms in parts.items()))
    console.print('   '.join(f'{name}: {share:.1%}' for name, share in use.items()))
    console.print(f'block_mask are {parts["block_mask"] / rows[0][1][0]:.1%} of a forward pass\n')
    of_problem = {'problem': dataclasses.asdict(problem), 'ms': dict(rows)}
    found['problems'].append(of_problem | {'parts': parts, 'use': use})
    if args.json:
      Path(args.json).write_text(json.dumps(found, indent=2) + '\n')


def median(begin: Callable, wait: Callable, repeat: int, in_a_row: int) -> float:
  """Return the median milliseconds of one call.

  Args:
    begin: starts the work and returns its result.
    wait: waits for a result.
    repeat: number of timings.
    in_a_row: calls started per timing before waiting for the last.
  """
  for _ in range(2):
    wait(begin())
  times = []
  for _ in range(repeat):
    start = time.perf_counter()
    for _ in range(in_a_row):
      result = begin()
    wait(result)
    times.append((time.perf_counter() - start) / in_a_row)
  return 1e3 * statistics.median(times)


def matmul_rate(dtype: str, timer: Timer) -> float:
  """Return the FLOP/s of a product of large square matrices."""
  n = 1024 if jax.default_backend() == 'cpu' else 8192
  x = jnp.ones((n, n), dtype)
  product = jax.jit(jnp.matmul)
  return 2 * n**3 / timer(partial(product, x, x), jax.block_until_ready) * 1e3


def jax_rows(problem: Problem, timer: Timer, implementation: str | None) -> list[Row]:
  """Time the implementations that run in JAX on this machine; ours comes first."""
  q, k, v, dy = (jnp.asarray(x, problem.dtype) for x in problem.arrays())
  bits = jnp.asarray(problem.bits)
  case = case_of(problem)
  ours = choose(case, implementation)
  rows = []
  for name in dict.fromkeys([ours, 'splash', 'packed']):
    if IMPLEMENTATIONS[name].refuses(case) is None:
      attend = partial(
        object_attention, q_bits=bits, k_bits=bits, block_mask=tables_of(problem, bits, name)
      )
      rows.append((f'ours: {name}', both_passes(attend, q, k, v, dy, timer)))
  if problem.tokens <= DENSE_TOKENS:
    mask = (bits[:, None, :, None] & bits[:, None, None, :]) != 0
    dense = partial(jax.nn.dot_product_attention, mask=mask)
    rows.append(('JAX, dense with mask', both_passes(dense, q, k, v, dy, timer)))
  if case.platform == 'gpu' and case.dtype != jnp.float32:
    cudnn = partial(jax.nn.dot_product_attention, implementation='cudnn')
    rows.append(('cuDNN, dense, no mask', both_passes(cudnn, q, k, v, dy, timer)))
  return rows


def case_of(problem: Problem) -> Case:
  """Return the case by which an implementation is chosen."""
  return Case(
    problem.tokens,
    problem.tokens,
    problem.head_dim,
    jnp.dtype(problem.dtype),
    jax.default_backend(),
  )


def tables_of(problem: Problem, bits: Array, implementation: str) -> BlockMask:
  """Return the block mask of an implementation."""
  return make_block_mask(
    bits,
    bits,
    head_dim=problem.head_dim,
    dtype=jnp.dtype(problem.dtype),
    implementation=implementation,
  )


def both_passes(attend, q, k, v, dy, timer: Timer) -> tuple[float, float]:
  """Return the milliseconds of the forward pass, and of forward plus backward."""
  forward = jax.jit(attend)

  @jax.jit
  def backward(q, k, v, dy):
    y, pull = jax.vjp(attend, q, k, v)
    return y, pull(dy)

  return (
    timer(partial(forward, q, k, v), jax.block_until_ready),
    timer(partial(backward, q, k, v, dy), jax.block_until_ready),
  )


def torch_rows(problem: Problem, timer: Timer, console: Console) -> list[Row]:
  """Time the implementations of PyTorch; NEVER if one cannot run."""
  try:
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
  except ImportError:
    console.print('PyTorch is not installed: its rows are left out (pip install torch)')
    return []
  gpu = jax.default_backend() == 'gpu'
  if gpu and not torch.cuda.is_available():
    console.print('this PyTorch has no CUDA: its rows are left out')
    return []
  device = 'cuda' if gpu else 'cpu'
  dtype = getattr(torch, problem.dtype)
  q, k, v, dy = (
    torch.tensor(x.swapaxes(1, 2), dtype=dtype, device=device).contiguous()
    for x in problem.arrays()
  )
  bits = torch.tensor(problem.bits[0], device=device)

  def same_object(b, h, i, j):
    return (bits[i] & bits[j]) != 0

  def finish(result):
    if gpu:
      torch.cuda.synchronize()

  create = torch.compile(create_block_mask)

  def make_blocks():
    return create(same_object, 1, None, problem.tokens, problem.tokens, device=device)

  def passes(name, attend, backward=True):
    def forward():
      with torch.no_grad():
        return attend(q, k, v)

    def whole():
      leaves = [x.detach().requires_grad_() for x in (q, k, v)]
      return torch.autograd.grad(attend(*leaves), leaves, dy)

    times = []
    for run in (forward, whole) if backward else (forward,):
      try:
        times.append(timer(run, finish))
      except RuntimeError as error:  # Out of memory, or no kernel for this case.
        console.print(f'{name}: {str(error).strip().splitlines()[0]}')
        times.append(NEVER)
    return times[0], times[1] if backward else NEVER

  # FlexAttention has no backward pass on CPUs.
  compiled = partial(torch.compile(flex_attention, dynamic=False), block_mask=make_blocks())
  flex = passes('FlexAttention', compiled, backward=gpu)
  made = timer(make_blocks, finish)
  rows = [
    ('PyTorch FlexAttention, compiled', flex),
    ('... and its block mask made', (flex[0] + made, flex[1] + made)),
  ]
  sdpa = torch.nn.functional.scaled_dot_product_attention
  if problem.tokens <= DENSE_TOKENS:
    mask = ((bits[:, None] & bits) != 0)[None, None]
    masked = passes('SDPA with mask', partial(sdpa, attn_mask=mask))
    rows.append(('PyTorch SDPA, dense with mask', masked))
  rows.append(('PyTorch SDPA, dense, no mask', passes('SDPA', sdpa)))
  return rows


def table(problem: Problem, rows: list[Row]) -> Table:
  """Return a table of times, absolute and relative to the first row."""
  made = Table('', 'forward (ms)', 'x ours', 'with backward (ms)', 'x ours', title=problem.name)
  made.caption = f'{problem.allowed / problem.tokens**2:.1%} of the pairs are allowed'
  ours = rows[0][1]
  for name, (forward, whole) in rows:
    cells = [f'{forward:.2f}', f'{forward / ours[0]:.2f}', f'{whole:.2f}', f'{whole / ours[1]:.2f}']
    made.add_row(name, *('-' if 'nan' in cell else cell for cell in cells))
  return made


def utilisation(
  problem: Problem, pairs: float, ours: tuple[float, float], peak: float
) -> dict[str, float]:
  """Return the FLOP/s of our implementation as a fraction of `peak`.

  Counts two matrix products forward and five backward, over the visited blocks or only over the
  allowed pairs.

  Args:
    problem: the problem.
    pairs: (query, key) pairs in the visited blocks, per head.
    ours: milliseconds of the forward pass, and of forward plus backward.
    peak: FLOP/s of large matrix products.
  """
  found = {}
  for what, count in (('visited blocks', pairs), ('allowed pairs', problem.allowed)):
    for side, products, ms in (('forward', 2, ours[0]), ('with backward', 7, ours[1])):
      rate = 2 * products * count * problem.heads * problem.head_dim / ms * 1e3
      found[f'{side}, {what}'] = rate / peak
  return found


def where_time_goes(problem: Problem, timer: Timer, implementation: str | None) -> dict[str, float]:
  """Time the block mask, and on CPUs the parts of our forward pass.

  Each part is timed alone, on one square per head with as many pairs as are allowed.

  Returns:
    Milliseconds by part; `blocks` is the number of pairs in the visited blocks.
  """
  bits = jnp.asarray(problem.bits)
  name = choose(case_of(problem), implementation)
  block_mask = tables_of(problem, bits, name)
  blocks = int(block_mask.by_query.runs.sum()) * block_mask.block[0] * block_mask.block[1]
  parts = {'block_mask': (partial(tables_of, problem, implementation=name), (bits,))}
  if jax.default_backend() == 'cpu':
    side = int(problem.allowed**0.5)
    rng = np.random.default_rng(0)
    shape = (problem.heads, side, problem.head_dim)
    x = jnp.asarray(rng.standard_normal(shape, np.float32), problem.dtype)
    scores = jnp.asarray(rng.standard_normal((problem.heads, side, side), np.float32))
    parts |= {
      'logits': (lambda x: jnp.einsum('hnd,hmd->hnm', x, x), (x,)),
      'softmax': (lambda s: jnp.exp(s - s.max(-1, keepdims=True)), (scores,)),
      'values': (lambda s, x: jnp.einsum('hnm,hmd->hnd', s, x), (scores.astype(x.dtype), x)),
    }

  def measure(function, args):
    return timer(partial(jax.jit(function), *args), jax.block_until_ready)

  # An implementation without a block mask visits all pairs.
  found = {name: measure(*part) for name, part in parts.items()}
  return {'blocks': blocks or problem.tokens**2, **found}


def numbers(text: str) -> tuple[int, ...]:
  """Parse comma-separated integers."""
  return tuple(int(x) for x in text.split(','))


def parser() -> argparse.ArgumentParser:
  """Return the argument parser, with defaults for the current device."""
  cpu = jax.default_backend() == 'cpu'
  made = command_parser('benchmarks.object_attention', __doc__)
  made.add_argument(
    '--tokens',
    type=numbers,
    default=(4096,) if cpu else (4096, 8448, 32760, 65536),
    help='number of tokens, or several, such as 4096,8448',
  )
  made.add_argument('--heads', type=int, default=8, help='number of heads (8)')
  made.add_argument(
    '--head_dim',
    type=numbers,
    default=(64,) if cpu else (40, 64, 128),
    help='head dimension, or several',
  )
  made.add_argument(
    '--dtype',
    choices=('float32', 'bfloat16'),
    default='float32' if cpu else 'bfloat16',
    help='dtype of queries, keys and values',
  )
  made.add_argument(
    '--shares',
    type=numbers,
    nargs='+',
    default=[(25, 25, 25, 25), (60, 10, 10, 10, 10)] + ([] if cpu else [(80, 20)]),
    help='percentage of the tokens of each object, such as 80,20; one problem per value',
  )
  made.add_argument(
    '--implementation', help='implementation of ours; default: chosen for this machine'
  )
  made.add_argument('--block', type=numbers, help='block size QUERIES,KEYS, for tuning')
  made.add_argument(
    '--repeat', type=int, default=7, help='timings per measurement; the median counts'
  )
  made.add_argument('--json', help='also write the results to this file')
  return made


if __name__ == '__main__':
  main()
