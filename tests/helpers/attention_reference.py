"""Reference implementation of object attention and its gradients in float64 NumPy."""

import numpy as np


def reference(q, k, v, q_bits, k_bits, dy):
  """Compute object attention and its gradients, one query at a time.

  Args:
    q: queries [B, N, H, D].
    k: keys [B, M, H, D].
    v: values [B, M, H, D].
    q_bits: object sets of the queries, int [B, N].
    k_bits: object sets of the keys, int [B, M].
    dy: cotangent of the output [B, N, H, D].

  Returns:
    y [B, N, H, D], which is 0 for fully masked queries, and the gradients dq, dk, dv; float64.
  """
  q, k, v, dy = (np.asarray(x, np.float64) for x in (q, k, v, dy))
  y, dq, dk, dv = np.zeros_like(q), np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
  scale = 1 / np.sqrt(q.shape[-1])
  for b, i, h in np.ndindex(q.shape[:3]):
    keys = np.flatnonzero(np.asarray(q_bits)[b, i] & np.asarray(k_bits)[b])
    if not len(keys):
      continue
    logits = k[b, keys, h] @ q[b, i, h] * scale
    weights = np.exp(logits - logits.max())
    weights /= weights.sum()
    y[b, i, h] = weights @ v[b, keys, h]
    dv[b, keys, h] += weights[:, None] * dy[b, i, h]
    dweights = v[b, keys, h] @ dy[b, i, h]
    dlogits = weights * (dweights - weights @ dweights) * scale
    dq[b, i, h] = dlogits @ k[b, keys, h]
    dk[b, keys, h] += dlogits[:, None] * q[b, i, h]
  return y, dq, dk, dv
