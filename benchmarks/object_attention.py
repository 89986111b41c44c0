"""Object-masked attention against its peers, in one run on this machine.

    python -m benchmarks.object_attention [--tokens 4096 --heads 8 --head_dim 64 --dtype float32]

Ours, on tokens sorted by object, against dense attention with a mask (JAX), and where PyTorch is
installed FlexAttention (compiled) and scaled_dot_product_attention; on GPUs also cuDNN, dense and
packed. Prints medians in milliseconds and how many times as long as ours each takes; then where our
time goes.
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from ttm_jax.ops.object_attention import (
  IMPLEMENTATIONS,
  Case,
  choose,
  make_tables,
  object_attention,
)

Array = jax.Array
Timer = Callable[[Callable[[], object]], float]


@dataclasses.dataclass(frozen=True)
class Problem:
  """Self-attention of one sample whose tokens lie in the order of their objects.

  Attributes:
    shares: per cent of the tokens that each object has.
  """

  tokens: int
  heads: int
  head_dim: int
  dtype: str
  shares: tuple[int, ...]

  @property
  def name(self) -> str:
    shares = ' + '.join(map(str, self.shares))
    return (
      f'{self.tokens} tokens, {self.heads} heads x {self.head_dim}, {self.dtype}, shares {shares} %'
    )

  @property
  def bits(self) -> np.ndarray:
    """int32 [1, N]."""
    ends = np.round(np.cumsum(self.shares) / sum(self.shares) * self.tokens).astype(int)
    return (1 << np.searchsorted(ends, np.arange(self.tokens), side='right')).astype(np.int32)[None]

  @property
  def allowed(self) -> int:
    """Pairs a head that attend to each other."""
    return int((np.unique(self.bits, return_counts=True)[1].astype(np.int64) ** 2).sum())

  @property
  def flops(self) -> float:
    """Of both matrix products over the allowed pairs, forward."""
    return 4.0 * self.allowed * self.heads * self.head_dim

  def arrays(self) -> list[np.ndarray]:
    """q, k, v and a cotangent, float32 [1, N, H, D]."""
    rng = np.random.default_rng(0)
    shape = (1, self.tokens, self.heads, self.head_dim)
    return [rng.normal(size=shape).astype(np.float32) for _ in range(4)]


def main() -> None:
  args = parser().parse_args()
  console = Console()
  found = []
  for shares in args.shares or ['25,25,25,25', '60,10,10,10,10']:
    percent = tuple(int(s) for s in shares.split(','))
    problem = Problem(args.tokens, args.heads, args.head_dim, args.dtype, percent)
    timer = partial(median, repeat=args.repeat)
    rows = jax_rows(problem, timer, args.implementation) + torch_rows(problem, timer, console)
    console.print(table(problem, rows))
    parts = where_time_goes(problem, timer)
    console.print('   '.join(f'{name}: {ms:.1f} ms' for name, ms in parts.items()), '\n')
    found.append({'problem': dataclasses.asdict(problem), 'ms': dict(rows), 'parts': parts})
  if args.json:
    Path(args.json).write_text(json.dumps(found, indent=2) + '\n')


def median(run: Callable[[], object], repeat: int) -> float:
  """Milliseconds of one call; `run` returns when the work is done."""
  run()
  run()
  times = []
  for _ in range(repeat):
    begin = time.perf_counter()
    run()
    times.append(time.perf_counter() - begin)
  return 1e3 * statistics.median(times)


def jax_rows(
  problem: Problem, timer: Timer, implementation: str | None
) -> list[tuple[str, tuple[float, float]]]:
  """(name, (forward, forward + backward)) of what runs in JAX here; ours first."""
  q, k, v, dy = (jnp.asarray(x, problem.dtype) for x in problem.arrays())
  bits = jnp.asarray(problem.bits)
  case = Case(problem.tokens, problem.tokens, problem.head_dim, q.dtype, jax.default_backend())
  ours = choose(case, implementation)
  names = [ours]
  names += [n for n in ('splash', 'packed') if n in IMPLEMENTATIONS and n != ours]
  rows = []
  for name in names:
    if IMPLEMENTATIONS[name].refuses(case) is None:
      made = make_tables(bits, bits, head_dim=problem.head_dim, dtype=q.dtype, implementation=name)
      attend = partial(with_tables, q_bits=bits, k_bits=bits, tables=made)
      rows.append((f'ours: {name}', both_passes(attend, q, k, v, dy, timer)))
  mask = (bits[:, None, :, None] & bits[:, None, None, :]) != 0
  dense = partial(jax.nn.dot_product_attention, mask=mask)
  if problem.tokens <= 16384:
    rows.append(('JAX, dense with mask', both_passes(dense, q, k, v, dy, timer)))
  if case.platform == 'gpu':
    cudnn = partial(jax.nn.dot_product_attention, implementation='cudnn')
    rows.append(('cuDNN, dense, no mask', both_passes(cudnn, q, k, v, dy, timer)))
  return rows


def with_tables(q, k, v, q_bits, k_bits, tables):
  return object_attention(q, k, v, q_bits, k_bits, tables=tables)


def both_passes(attend, q, k, v, dy, timer) -> tuple[float, float]:
  """Milliseconds of the forward pass, and of it with the backward pass."""
  forward = jax.jit(attend)

  @jax.jit
  def backward(q, k, v, dy):
    y, pull = jax.vjp(attend, q, k, v)
    return y, pull(dy)

  return (
    timer(lambda: jax.block_until_ready(forward(q, k, v))),
    timer(lambda: jax.block_until_ready(backward(q, k, v, dy))),
  )


def torch_rows(
  problem: Problem, timer: Timer, console: Console
) -> list[tuple[str, tuple[float, float]]]:
  """The same for PyTorch; nan where it cannot."""
  try:
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
  except ImportError:
    console.print('PyTorch is not installed: its rows are left out (pip install torch)')
    return []
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  dtype = getattr(torch, problem.dtype)
  q, k, v, dy = (
    torch.tensor(x.swapaxes(1, 2), dtype=dtype, device=device).contiguous()
    for x in problem.arrays()
  )
  bits = torch.tensor(problem.bits[0], device=device)

  def same_object(b, h, i, j):
    return (bits[i] & bits[j]) != 0

  def finish():
    if device == 'cuda':
      torch.cuda.synchronize()

  def make_blocks():
    return create_block_mask(
      same_object, 1, None, problem.tokens, problem.tokens, device=device, _compile=True
    )

  def passes(attend, backward=True):
    def forward():
      with torch.no_grad():
        attend(q, k, v)
      finish()

    def whole():
      leaves = [x.detach().requires_grad_() for x in (q, k, v)]
      torch.autograd.grad(attend(*leaves), leaves, dy)
      finish()

    return timer(forward), timer(whole) if backward else float('nan')

  rows = []
  compiled = torch.compile(flex_attention, dynamic=False)
  blocks = make_blocks()
  # FlexAttention has no backward pass on CPUs.
  flex = passes(partial(compiled, block_mask=blocks), backward=device == 'cuda')
  rows.append(('PyTorch FlexAttention, compiled', flex))
  made = timer(lambda: (make_blocks(), finish()))
  rows.append(('... and its block mask made', (flex[0] + made, flex[1] + made)))
  sdpa = torch.nn.functional.scaled_dot_product_attention
  if problem.tokens <= 16384:
    mask = ((bits[:, None] & bits) != 0)[None, None]
    rows.append(('PyTorch SDPA, dense with mask', passes(partial(sdpa, attn_mask=mask))))
  rows.append(('PyTorch SDPA, dense, no mask', passes(sdpa)))
  return rows


def table(problem: Problem, rows: list[tuple[str, tuple[float, float]]]) -> Table:
  made = Table('', 'forward (ms)', 'x ours', 'with backward (ms)', 'x ours', title=problem.name)
  made.caption = f'{problem.allowed / problem.tokens**2:.1%} of the pairs are allowed'
  ours = rows[0][1]
  for name, (forward, whole) in rows:
    cells = [f'{forward:.1f}', f'{forward / ours[0]:.2f}', f'{whole:.1f}', f'{whole / ours[1]:.2f}']
    made.add_row(name, *('-' if 'nan' in cell else cell for cell in cells))
  return made


def where_time_goes(problem: Problem, timer: Timer) -> dict[str, float]:
  """Milliseconds of the parts of our forward pass, each alone over the allowed pairs.

  One rectangle a head with as many pairs as are allowed stands for them.
  """
  side = int(problem.allowed**0.5)
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(problem.heads, side, problem.head_dim)), problem.dtype)
  scores = jnp.asarray(rng.normal(size=(problem.heads, side, side)), jnp.float32)
  bits = jnp.asarray(problem.bits)

  def blocks(bits):
    return make_tables(bits, bits, head_dim=problem.head_dim, dtype=x.dtype)

  parts = {
    'logits': (lambda x: jnp.einsum('hnd,hmd->hnm', x, x), (x,)),
    'softmax': (lambda s: jnp.exp(s - s.max(-1, keepdims=True)), (scores,)),
    'values': (lambda s, x: jnp.einsum('hnm,hmd->hnd', s, x), (scores.astype(x.dtype), x)),
    'tables': (blocks, (bits,)),
  }

  def measure(function, args):
    compiled = jax.jit(function)
    return timer(lambda: jax.block_until_ready(compiled(*args)))

  return {name: measure(*part) for name, part in parts.items()}


def parser() -> argparse.ArgumentParser:
  made = argparse.ArgumentParser(
    'python -m benchmarks.object_attention',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  made.add_argument('--tokens', type=int, default=4096, help='N (4096)')
  made.add_argument('--heads', type=int, default=8, help='H (8)')
  made.add_argument('--head_dim', type=int, default=64, help='D (64)')
  made.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32')
  made.add_argument(
    '--shares',
    action='append',
    help='per cent of the tokens of each object, as in 80,20; again for another problem'
    ' (25,25,25,25 and 60,10,10,10,10)',
  )
  made.add_argument('--implementation', help='ours to measure; default the one for this machine')
  made.add_argument('--repeat', type=int, default=7, help='timed calls each, of which the median')
  made.add_argument('--json', help='also write the figures to this file')
  return made


if __name__ == '__main__':
  main()
