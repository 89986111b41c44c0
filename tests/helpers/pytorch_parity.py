"""Convert conditions and arrays of JAX to the layout of the PyTorch modules: channels first."""

import numpy as np
import torch

from ttm_jax.pytorch import conditioning

torch.set_num_threads(1)  # Everything is tiny here: threads would mostly wait for each other.


def tensor(x):
  """Copy to a tensor of the same dtype."""
  return torch.from_numpy(np.array(x))


def channels_first(x):
  return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def channels_last(x):
  return np.moveaxis(x.detach().float().numpy(), 1, -1)


def text(tokens):
  return {
    name: conditioning.Tokens(tensor(t.embedding), tensor(t.bits)) for name, t in tokens.items()
  }


def condition(ours):
  """Convert a `Condition` of JAX to PyTorch."""
  objects = None
  if ours.objects is not None:
    places = [
      conditioning.TokenMasks(tensor(p.region), tensor(p.present)) for p in ours.objects.places
    ]
    objects = conditioning.Objects(tuple(places), text(ours.objects.prompts))
  visual = None if ours.visual is None else channels_first(ours.visual)
  return conditioning.Condition(text(ours.text), visual, objects)


def drift(got, wanted):
  """Return the largest difference, relative to the largest value."""
  got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
  return np.abs(got - wanted).max() / np.abs(wanted).max()
