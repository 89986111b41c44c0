"""Convert conditions and arrays of JAX to PyTorch (channels first), and compare results."""

import numpy as np
import torch

from ttm_jax.pytorch import conditioning

torch.set_num_threads(1)  # The tensors are tiny, so more threads would only add overhead.


def tensor(x):
  """Return a copy of an array as a tensor of the same dtype."""
  return torch.from_numpy(np.array(x))


def channels_first(x):
  """Convert an array [B, ..., C] to a tensor [B, C, ...]."""
  return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def channels_last(x):
  """Convert a tensor [B, C, ...] to a float32 array [B, ..., C]."""
  return np.moveaxis(x.detach().float().numpy(), 1, -1)


def text(tokens):
  """Convert the tokens of each text encoder to PyTorch."""
  return {
    name: conditioning.Tokens(tensor(t.embedding), tensor(t.bits)) for name, t in tokens.items()
  }


def condition(ours):
  """Convert a `ttm_jax.conditioning.Condition` to its PyTorch counterpart."""
  objects = None
  if ours.objects is not None:
    token_masks = [
      conditioning.TokenMasks(tensor(p.region), tensor(p.present)) for p in ours.objects.token_masks
    ]
    objects = conditioning.Objects(tuple(token_masks), text(ours.objects.prompts))
  visual = None if ours.visual is None else channels_first(ours.visual)
  return conditioning.Condition(text(ours.text), visual, objects)


def drift(got, wanted):
  """Return the largest absolute difference, relative to the largest absolute value of `wanted`."""
  got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
  return np.abs(got - wanted).max() / np.abs(wanted).max()
