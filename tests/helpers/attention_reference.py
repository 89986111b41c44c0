"""Object attention in float64 NumPy, with its gradients: the reference of every kernel."""

import numpy as np


def reference(q, k, v, q_bits, k_bits, dy):
  """Compute the rule and its gradients query by query: y [B, N, H, D], and dq, dk, dv for dy."""
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
