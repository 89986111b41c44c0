"""Compare the train step of Wan with the same network in PyTorch, on one GPU, in one run.

    python -m benchmarks.wan_step --config=stage2_wan --config.data.batch_size=1 \\
        --config.model.remat=dots

First the step of this package, in its training loop (`benchmarks.step`). Then PyTorch: the network
of `ttm_jax.pytorch.wan` on the classes of diffusers, `torch.compile`, bfloat16 autocast, SDPA and
FlexAttention, gradient checkpointing unless `remat` is 'none', fused AdamW, the same batch, shapes
and masks. Each runs in its own process, since both reserve the memory of the GPU. Prints both step
times, the MFU of each and the ratio.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file('config', None, 'configuration file, see configs/')
_STEPS = flags.DEFINE_integer('steps', 10, 'timed steps, after as many warm-up steps')
_PEER = flags.DEFINE_string('peer', '', 'internal: file for the measurements of PyTorch')
flags.mark_flag_as_required('config')


def main(argv: list[str]) -> None:
  del argv
  if _PEER.value:
    Path(_PEER.value).write_text(json.dumps(of_pytorch(_CONFIG.value, _STEPS.value)))
    return
  given = [a for a in sys.argv[1:] if not a.startswith('--steps')]
  with tempfile.TemporaryDirectory(prefix='wan_step') as folder:
    ours, theirs = Path(folder, 'ours.json'), Path(folder, 'theirs.json')
    steps = f'--steps={_STEPS.value}'
    run('benchmarks.step', *given, steps, f'--json={ours}')
    run('benchmarks.wan_step', *given, steps, f'--peer={theirs}')
    a, b = json.loads(ours.read_text()), json.loads(theirs.read_text())
  mfu = a['mfu'] * a['step_s_p50'] / b['step_s']
  print(
    f'ours     {1e3 * a["step_s_p50"]:8.1f} ms, MFU {a["mfu"]:.1%}, {a.get("memory_gb", 0):.1f} GB'
  )
  print(f'PyTorch  {1e3 * b["step_s"]:8.1f} ms, MFU {mfu:.1%}, {b["memory_gb"]:.1f} GB')
  print(f'PyTorch / ours: {b["step_s"] / a["step_s_p50"]:.2f}')


def run(*command: str) -> None:
  """Run a module of this package in a process of its own."""
  subprocess.run([sys.executable, '-m', *command], check=True)


def of_pytorch(config: Any, steps: int) -> dict[str, float]:
  """Return the median step time in seconds and the peak memory in GB of PyTorch."""
  import torch

  from ttm_jax.models.wan import convert
  from ttm_jax.planning import inputs
  from ttm_jax.presets import model_config
  from ttm_jax.pytorch.wan import TTMWanTransformer

  context, sizes = inputs.typical_context(config), model_config(config)
  encoding, count = context.encoding, config.data.batch_size
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  made = convert.config_to_torch(sizes, encoding.encoders)
  model = TTMWanTransformer(**made).to(device)
  if config.model.remat != 'none':
    model.enable_gradient_checkpointing()
  for block in model.blocks:
    block.compile()
  optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=True)
  batch = random_batch(context, sizes, count, device)
  times = []
  for step in range(2 * steps):
    begin = time.perf_counter()
    with torch.autocast(device, torch.bfloat16):
      loss = model(*batch).square().mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    loss.item()  # Wait for the device.
    if step >= steps:
      times.append(time.perf_counter() - begin)
  memory = torch.cuda.max_memory_allocated() / 1e9 if device == 'cuda' else 0.0
  return {'step_s': statistics.median(times), 'memory_gb': memory}


def random_batch(context: Any, sizes: Any, count: int, device: str) -> tuple:
  """Return x_t, t and a condition with two rectangular objects, as `benchmarks.step` has them."""
  import torch

  from ttm_jax.pytorch.conditioning import (
    Condition,
    Objects,
    TokenMasks,
    caption_tokens,
    prompt_tokens,
  )

  frames, height, width, channels = context.latent_shape
  ((name, spec),) = context.encoding.encoders.items()
  torch.manual_seed(0)

  def draw(*shape: int) -> torch.Tensor:
    return torch.randn(count, *shape, device=device)

  def full(value: int, *shape: int) -> torch.Tensor:
    return torch.full((count, *shape), value, device=device)

  text = {name: caption_tokens(draw(spec.length, spec.dim), full(40))}
  objects = None
  if sizes.masked_blocks and context.encoding.max_objects:
    rows, columns = context.encoding.grids[0]
    region = full(1, frames, rows, columns)
    region[:, :, rows // 4 : rows // 2] = 2
    region[:, :, rows // 2 :, columns // 2 :] = 4
    region = region.to(torch.int32)
    lengths = full(0, context.encoding.max_objects)
    lengths[:, :2] = min(40, spec.prompt_length)
    prompts = draw(context.encoding.max_objects, spec.prompt_length, spec.dim)
    masks = TokenMasks(region, torch.where(region == 1, 0, region).to(torch.int32))
    objects = Objects((masks,), {name: prompt_tokens(prompts, lengths)})
  visual = draw(sizes.visual_channels, frames, height, width) if sizes.visual_channels else None
  return draw(channels, frames, height, width), full(500).float(), Condition(text, visual, objects)


if __name__ == '__main__':
  from ttm_jax.settings import parse_flags

  app.run(main, flags_parser=parse_flags)
