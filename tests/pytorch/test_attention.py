"""Object attention in PyTorch: each implementation against dense attention in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from tests.helpers.pytorch_parity import tensor
from ttm_jax.ops import object_attention as ours
from ttm_jax.pytorch import attention
from ttm_jax.pytorch.attention import AttentionMask, object_attention

B, H, N, M, D = 2, 3, 150, 70, 16
TOP = np.int32(-(2**31))  # Bit 31 alone.


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
  monkeypatch.setattr(attention, 'CHUNK', 32)
  monkeypatch.setattr(attention, 'BLOCK', 16)


def bits(rng, count, objects=5, empty=0.2):
  """Return object sets, some empty; object 1 is bit 31."""
  sets = rng.integers(0, 2, (B, count, objects)) @ np.array([1, 0, 4, 8, 16])[:objects]
  sets = sets.astype(np.int32) | np.where(rng.random((B, count)) < 0.2, TOP, 0)
  return np.where(rng.random((B, count)) < empty, 0, sets).astype(np.int32)


def owners(rng, count):
  """Return one object per token, in sorted order."""
  return np.sort(np.array([1, 2, 16, TOP], np.int32)[rng.integers(0, 4, (B, count))], axis=1)


def case(seed, kind):
  rng = np.random.default_rng(seed)
  if kind == 'sets':
    q_bits, k_bits = bits(rng, N), bits(rng, M)
  elif kind == 'sorted owners':
    q_bits = k_bits = owners(rng, N)
  elif kind == 'one set a sample':
    q_bits, k_bits = np.array([[-1], [32]], np.int32), bits(rng, M)
  elif kind == 'a sample without keys':
    q_bits, k_bits = bits(rng, N), bits(rng, M)
    k_bits[1] = 0
  else:  # The keys to which all may attend.
    q_bits, k_bits = np.full((B, N), -1, np.int32), np.full((B, M), 2, np.int32)
  q = rng.normal(size=(B, H, N, D)).astype(np.float32)
  k, v = rng.normal(size=(2, B, H, k_bits.shape[1], D)).astype(np.float32)
  return q, k, v, q_bits, k_bits


KINDS = ['sets', 'sorted owners', 'one set a sample', 'a sample without keys', 'everything']


def reference(q, k, v, q_bits, k_bits):
  q, k, v = (x.astype(np.float64) for x in (q, k, v))
  allowed = np.broadcast_to(
    (q_bits[:, :, None] & k_bits[:, None]) != 0, (B, q.shape[2], k.shape[2])
  )[:, None]
  scores = np.where(allowed, q @ k.swapaxes(2, 3) / np.sqrt(D), -np.inf)
  weights = np.exp(scores - np.maximum(scores.max(-1, keepdims=True), -1e30))
  total = weights.sum(-1, keepdims=True)
  return weights / np.where(total == 0, 1, total) @ v, allowed.any(-1)[..., None]


def tensors(*arrays):
  return [tensor(x) for x in arrays]


def check(implementation, kind):
  for seed in range(3):
    arrays = case(seed, kind)
    wanted, reads = reference(*arrays)
    q, k, v, q_bits, k_bits = tensors(*arrays)
    got = object_attention(q, k, v, AttentionMask.make(q_bits, k_bits, implementation)).numpy()
    np.testing.assert_allclose(got, wanted, atol=2e-6)
    blind = np.broadcast_to(~reads, wanted.shape)
    assert not got[blind].any()
    assert blind.any() == (kind in ('sets', 'one set a sample', 'a sample without keys'))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('implementation', ['dense', 'chunked'])
def test_agrees_with_all_scores_in_float64(implementation, kind):
  check(implementation, kind)


@pytest.mark.filterwarnings('ignore:flex_attention called without torch.compile')
def test_flex_agrees_uncompiled(monkeypatch):
  monkeypatch.setattr(attention, '_compiled', lambda: flex_attention)
  check('flex', 'a sample without keys')


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_flex_agrees_compiled(kind):
  """PyTorch compiles it for CPUs too, with a C++ compiler, in a minute."""
  check('flex', kind)


@pytest.mark.parametrize('implementation', ['dense', 'chunked'])
def test_gradients(implementation):
  *arrays, q_bits, k_bits = case(0, 'a sample without keys')
  inputs = [x.requires_grad_() for x in tensors(*arrays)]
  pairs = AttentionMask.make(*tensors(q_bits, k_bits), implementation)
  object_attention(*inputs, pairs).square().sum().backward()
  found = [x.grad.numpy() for x in inputs]
  doubles = [torch.from_numpy(x).double().requires_grad_() for x in arrays]
  allowed = torch.from_numpy((q_bits[:, :, None] & k_bits[:, None]) != 0)[:, None]
  scores = doubles[0] @ doubles[1].mT / D**0.5
  weights = torch.where(allowed, scores, -torch.inf).softmax(-1).nan_to_num(0)
  (torch.where(allowed, weights, 0) @ doubles[2]).square().sum().backward()
  reads = allowed.any(-1)[..., None].numpy()
  assert all(np.isfinite(x).all() for x in found)
  np.testing.assert_array_equal(found[0] * ~reads, 0)
  for got, x in zip(found, doubles, strict=True):
    np.testing.assert_allclose(got, np.nan_to_num(x.grad.numpy()), atol=2e-5)


def test_blocks_that_are_visited():
  for seed in range(3):
    for kind in ('sets', 'sorted owners'):
      *_, q_bits, k_bits = case(seed, kind)
      visited, full = (x.numpy() for x in attention.block_table(*tensors(q_bits, k_bits)))
      allowed = (q_bits[:, :, None] & k_bits[:, None]) != 0
      rows, columns = -(-q_bits.shape[1] // 16), -(-k_bits.shape[1] // 16)
      whole = np.zeros((B, rows * 16, columns * 16), bool)
      whole[:, : allowed.shape[1], : allowed.shape[2]] = allowed
      blocks = whole.reshape(B, rows, 16, columns, 16)
      np.testing.assert_array_equal(visited, blocks.any((2, 4)))
      assert not (full & ~blocks.all((2, 4))).any()
      if kind == 'sorted owners':
        np.testing.assert_array_equal(full, blocks.all((2, 4)))
        assert full.any() and not visited.all()
      plan = AttentionMask.make(*tensors(q_bits, k_bits), 'flex').plan
      np.testing.assert_array_equal(plan.to_dense()[:, 0].numpy() != 0, visited)


def test_chunks_skip_what_no_query_may_attend_to():
  q_bits = k_bits = torch.tensor([[1] * 64 + [2] * 32], dtype=torch.int32)
  (chunks,) = AttentionMask.make(q_bits, k_bits, 'chunked').plan
  assert [c.keys for c in chunks] == [slice(0, 64), slice(0, 64), slice(64, 96)]
  assert all(c.whole for c in chunks)


def test_order_of_tokens_is_ours():
  rng = np.random.default_rng(0)
  region, present = (
    np.array([0, 1, 2, 8, TOP], np.int32)[rng.integers(0, 5, (2, 40))] for _ in 'ab'
  )
  order = attention.sort_by_object(*tensors(region, present))
  wanted = ours.sort_by_object(jnp.asarray(region), jnp.asarray(present))
  np.testing.assert_array_equal(order, wanted)
  x = torch.randn(2, 40, 3)
  np.testing.assert_array_equal(attention.sort(x, order), ours.sort(x.numpy(), wanted))
  np.testing.assert_array_equal(attention.unsort(attention.sort(x, order), order), x)


def test_what_is_chosen(monkeypatch):
  small, large = torch.ones(1, 64, dtype=torch.int32), torch.ones(1, 2048, dtype=torch.int32)
  assert attention.choose(small, large) == 'dense' and attention.choose(large, large) == 'chunked'
  monkeypatch.setattr(attention, '_can_compile', lambda: True)
  on_gpu = torch.ones(1, 2048, dtype=torch.int32, device='meta')
  assert attention.choose(on_gpu, on_gpu) == 'chunked'  # Only CUDA compiles.
  with pytest.raises(ValueError, match="no 'flash'"):
    AttentionMask.make(small, small, 'flash')
  with pytest.raises(ValueError, match='int32'):
    AttentionMask.make(small.long(), small)
