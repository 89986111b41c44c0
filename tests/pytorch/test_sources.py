"""The code of an exported folder runs without JAX and without this package."""

import ast
import os
import subprocess
import sys

import torch
from diffusers.utils.dynamic_modules_utils import get_relative_imports

from tests.helpers import pytorch_parity as parity
from tests.helpers.small_dit import STAGE2, example_inputs, module, randomized
from ttm_jax.pytorch.sources import sources

ALONE = """
import sys

class Nothing:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in ('jax', 'jaxlib', 'flax', 'einops', 'ml_dtypes', 'ttm_jax'):
      raise ImportError(f'{name} is not here')

sys.meta_path.insert(0, Nothing())
import numpy as np
import torch
from diffusers.utils.dynamic_modules_utils import get_class_from_dynamic_module

def find(file, name):
  return get_class_from_dynamic_module('code', file, class_name=name, trust_remote_code=True)

torch.set_num_threads(1)
model = find('dit.py', 'TTMTransformer').from_pretrained('model')
Condition, Tokens, Objects, TokenMasks = (
  find('conditioning.py', name) for name in ('Condition', 'Tokens', 'Objects', 'TokenMasks')
)
x_t, t, (text, visual, (token_masks, prompts)) = torch.load('inputs.pt')
named = [{k: Tokens(*v) for k, v in x.items()} for x in (text, prompts)]
objects = Objects(tuple(TokenMasks(*p) for p in token_masks), named[1])
with torch.no_grad():
  torch.save(model(x_t, t, Condition(named[0], visual, objects)), 'output.pt')

codec = find('tae.py', 'TTMTemporalAutoencoder')(3, 8, (1, 2), 1, 1, tile=(4, 8, 8))
assert codec.decode(torch.randn(1, 3, 3, 4, 6), 5).sample.shape == (1, 3, 5, 8, 12)
codec = find('linear.py', 'TTMLinearCodec')((2, 2, 2), 4)
assert codec.encode(torch.zeros(1, 3, 3, 4, 4)).latent_dist.mode().shape == (1, 4, 2, 2, 2)
ids = np.zeros((2, 4, 6), np.uint8)
ids[:, :2, :2] = 1
moved = find('trajectory_edits.py', 'translate')(ids, 1, {0: (0, 0), 1: (2, 0)})
painted = find('trajectory.py', 'render')(moved)
assert (find('trajectory.py', 'decode')(painted, ids[0]) == moved).all() and moved[1, 0, 3] == 1
assert find('word_ids.py', 'tokenize')('The ball.', 4)[1] == 3
error = find('errors.py', 'InputError')
try:
  find('trajectory.py', 'render')(ids + np.uint8(9))
except error as reason:
  print(reason)
"""


def plain(condition):
  """Convert to tuples and dicts, which can be read back without the classes."""
  text, visual, objects, *_ = condition
  texts = [{k: tuple(v) for k, v in x.items()} for x in (text, objects.prompts)]
  return texts[0], visual, ([tuple(p) for p in objects.token_masks], texts[1])


def test_runs_alone(tmp_path):
  (tmp_path / 'code').mkdir()
  for name, text in sources().items():
    (tmp_path / 'code' / name).write_text(text)
  model = module(STAGE2, randomized(STAGE2, 0))
  model.save_pretrained(tmp_path / 'model')
  x_t, t, condition = example_inputs(STAGE2, True, 1)
  given = parity.channels_first(x_t), parity.tensor(t), parity.condition(condition)
  torch.save((*given[:2], plain(given[2])), tmp_path / 'inputs.pt')
  done = subprocess.run(
    [sys.executable, '-c', ALONE],
    cwd=tmp_path,
    env={
      'PATH': os.environ['PATH'],
      'HF_MODULES_CACHE': str(tmp_path / 'cache'),
      'HF_HUB_OFFLINE': '1',
    },
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert 'holds object 10, but objects are numbered 1..8' in done.stdout
  with torch.no_grad():
    assert torch.equal(torch.load(tmp_path / 'output.pt'), model(*given))


def test_files_name_all_their_neighbors(tmp_path):
  texts = sources()
  assert {'dit.py', 'tae.py', 'linear.py', 'trajectory.py', 'word_ids.py'} <= set(texts)
  assert 'sources.py' not in texts
  for name, text in texts.items():
    ast.parse(text)
    (tmp_path / name).write_text(text)
  for name, text in texts.items():
    assert 'import ttm_jax' not in text and 'from ttm_jax' not in text
    needed = get_relative_imports(tmp_path / name)
    for other in needed:
      assert set(get_relative_imports(tmp_path / f'{other}.py')) <= {*needed, name[:-3]}
