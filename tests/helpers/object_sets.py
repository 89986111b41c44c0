"""Object sets of queries and keys, for tests of the attention kernels."""

import numpy as np
from hypothesis import strategies as st

LAST = -(1 << 31)  # Bit 31: a negative int32.
sets = st.integers(LAST, -LAST - 1) | st.sampled_from([0, 1, 2, 4, 6, LAST])
runs = st.lists(st.tuples(sets, st.integers(1, 200)), min_size=1, max_size=6)


def owners(count, *lengths):
  """Return tokens in object order, bits 0, 1, 2, ...; the last object has the rest."""
  bits = np.repeat(np.arange(len(lengths)), lengths)
  return np.int32(1) << np.append(bits, np.full(count - len(bits), len(lengths))).astype(np.int32)


def maps(n, m):
  """Return object sets of queries and keys by case."""
  rng = np.random.default_rng(0)
  spread = np.int32(1) << np.arange(32, dtype=np.int32)
  return {
    'objects of all sizes': (owners(n, 150, 1, 1, 60, 3), owners(m, 20, 128, 1)),
    'all background': (owners(n), owners(m)),
    'empty objects': (owners(n, 100, 100, 0, 50), owners(m, 0, 0, 40, 60)),
    'nothing but tokens without objects': (np.zeros(n), np.zeros(m)),
    '31 objects and the background': (np.sort(np.resize(spread, n)), np.resize(spread, m)),
    'the last bit': (np.where(np.arange(n) < 140, LAST, 1), np.resize([LAST, 2, 0], m)),
    'boxes that overlap': (
      np.sort(rng.choice([0, 2, 4, 6, 14], n)),
      np.sort(rng.choice([2, 8], m)),
    ),
    'any sets, not in order': (rng.integers(LAST, -LAST, n), rng.integers(LAST, -LAST, m) & 3),
  }


def label_maps(samples, count):
  """Return runs of tokens with the same set, int32 [samples, count]."""

  def tokens(sample):
    return np.resize(np.concatenate([np.full(n, s) for s, n in sample]), count).astype(np.int32)

  return st.lists(runs.map(tokens), min_size=samples, max_size=samples).map(np.stack)
