"""Reference implementation of the DiT in float64 NumPy."""

import jax
import numpy as np


def silu(x):
  return x / (1 + np.exp(-x))


def rms(x, scale):
  """Return RMSNorm along the last axis, with epsilon 1e-5."""
  return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * scale


def linear(p, x):
  return x @ p['kernel'] + p.get('bias', 0)


def attend(p, x, context, q_bits, k_bits, heads):
  """Return masked attention with RMS-normalized queries and keys; 0 for fully masked queries."""
  q, k, v = (
    linear(p[name], y).reshape(*y.shape[:2], heads, -1)
    for name, y in (('query', x), ('key', context), ('value', context))
  )
  q, k = rms(q, p['query_norm']['scale']), rms(k, p['key_norm']['scale'])
  logits = np.einsum('bnhd,bmhd->bhnm', q, k) / np.sqrt(q.shape[-1])
  allowed = (q_bits[:, None, :, None] & k_bits[:, None, None, :]) != 0
  weights = np.exp(logits - logits.max(-1, keepdims=True)) * allowed
  weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-30)
  return linear(p['out'], np.einsum('bhnm,bmhd->bnhd', weights, v).reshape(x.shape))


def reference(params, config, x_t, t, condition):
  """Return the prediction of the DiT [B, T', H', W', C], in float64.

  Args:
    params: the parameters of the network, with stacked layers.
    config: the configuration of the network.
    x_t: noisy latents [B, T', H', W', C].
    t: times [B].
    condition: the condition; `t5` is its only text encoder.
  """
  params, condition = jax.tree.map(
    lambda x: np.asarray(x, np.float64 if np.asarray(x).dtype == np.float32 else None),
    (params, condition),
  )

  def tokens(x):
    b, f, height, width, c = x.shape
    x = x.reshape(b, f, height // 2, 2, width // 2, 2, c).transpose(0, 1, 2, 4, 3, 5, 6)
    return x.reshape(b, -1, 4 * c)

  def text(tokens):
    p = params['text']
    y = linear(p['projections']['t5'], tokens.embedding)
    return rms(y, p['norms']['t5']['scale']), tokens.bits

  h = linear(params['embed'], tokens(np.asarray(x_t, np.float64)))
  if condition.visual is not None:
    h = h + linear(params['embed_visual'], tokens(condition.visual))
  frames, rows, columns = x_t.shape[1], x_t.shape[2] // 2, x_t.shape[3] // 2
  p = params['positions']
  positions = p['t'][:frames, None, None] + p['h'][:rows, None] + p['w'][:columns]
  positions = positions.reshape(-1, config.width)
  angles = np.asarray(t, np.float64)[:, None] * 10_000 ** (-np.arange(128) / 128)
  waves = np.concatenate([np.cos(angles), np.sin(angles)], -1)
  time = silu(linear(params['time']['out'], silu(linear(params['time']['hidden'], waves))))
  shared = linear(params['modulation'], time).reshape(len(t), 6, 1, config.width)
  all_bits = np.full(h.shape[:2], -1)
  caption, caption_bits = text(condition.text['t5'])

  layers = []
  for name in ('masked_blocks', 'blocks'):
    stacked = params.get(name, {})
    count = jax.tree.leaves(stacked)[0].shape[0] if stacked else 0
    layers += [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(count)]
  for layer in layers:
    shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = np.moveaxis(
      shared + layer['table'][:, None], 1, 0
    )
    h = h + positions
    y = rms(h, layer['norm1']['scale']) * (1 + scale) + shift
    h = h + gate * attend(layer['attn'], y, y, all_bits, all_bits, config.heads)
    if 'masked_attn' in layer:
      extra = layer['masked_attn']
      y = rms(h, extra['norm']['scale'])
      bits = all_bits
      if condition.objects is not None:
        bits = condition.objects.token_masks[0].region.reshape(len(t), -1)
      y = attend(extra['attention'], y, y, bits, bits, config.heads)
      h = h + np.tanh(extra['gate']) * y
    y = rms(h, layer['norm2']['scale'])
    h = h + attend(layer['cross_attn'], y, caption, all_bits, caption_bits, config.heads)
    if 'masked_cross_attn' in layer:
      extra = layer['masked_cross_attn']
      y = rms(h, extra['norm']['scale'])
      context, context_bits, bits = caption, caption_bits, all_bits
      if condition.objects is not None:
        context, context_bits = text(condition.objects.prompts['t5'])
        bits = condition.objects.token_masks[0].present.reshape(len(t), -1)
      y = attend(extra['attention'], y, context, bits, context_bits, config.heads)
      h = h + np.tanh(extra['gate']) * y
    y = rms(h, layer['norm3']['scale']) * (1 + ffn_scale) + ffn_shift
    y = silu(linear(layer['ffn']['gate'], y)) * linear(layer['ffn']['up'], y)
    h = h + ffn_gate * linear(layer['ffn']['down'], y)
  shift, scale = np.split(linear(params['final_modulation'], time)[:, None], 2, -1)
  out = linear(params['head'], rms(h, params['norm']['scale']) * (1 + scale) + shift)
  out = out.reshape(len(t), frames, rows, columns, 2, 2, -1).transpose(0, 1, 2, 4, 3, 5, 6)
  return out.reshape(x_t.shape)
