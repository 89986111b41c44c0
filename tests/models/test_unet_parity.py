"""Our networks against those of diffusers and transformers, through the files that these write."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from flax import nnx

from ttm_jax.conditioning import Condition
from ttm_jax.models.unet import open_weights as pretrained
from ttm_jax.models.unet.model import UNet, UNetConfig
from ttm_jax.models.unet.motion import positions
from ttm_jax.pretrained.names import export_tensors
from ttm_jax.pretrained.weights import read
from ttm_jax.text.encoders import CLIP_L, TextEncoderSpec, caption_tokens

torch = pytest.importorskip('torch', reason='PyTorch is not installed (extra dev)')
diffusers = pytest.importorskip('diffusers', reason='diffusers is not installed (extra dev)')
transformers = pytest.importorskip('transformers', reason='transformers is not installed')

# Sizes, units per level, heads, frames, latents; one per seed.
CASES = [
  (UNetConfig(widths=(16, 32, 32, 48), units=1, heads=4, groups=8, text_width=12), 3, (8, 16)),
  (UNetConfig(widths=(16, 24, 32), units=2, heads=2, groups=4, text_width=8), 5, (4, 8)),
  (UNetConfig(widths=(32, 64), units=1, heads=8, groups=16, text_width=20), 2, (8, 2)),
]
CASES = [
  (dataclasses.replace(config, dtype='float32', remat='none'), *rest) for config, *rest in CASES
]


def shaken(model, seed):
  """Draw all weights of a model at random, including those of norms and zero-initialized ones."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for parameter in model.parameters():
      parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
  return model.eval()


def theirs(config, seed):
  """Make the U-Net of diffusers from an image network and a motion adapter; return all three."""
  torch.manual_seed(seed)
  levels = len(config.widths)
  image = diffusers.UNet2DConditionModel(
    block_out_channels=config.widths,
    down_block_types=('CrossAttnDownBlock2D',) * (levels - 1) + ('DownBlock2D',),
    up_block_types=('UpBlock2D',) + ('CrossAttnUpBlock2D',) * (levels - 1),
    layers_per_block=config.units,
    norm_num_groups=config.groups,
    attention_head_dim=config.heads,  # diffusers uses this as the number of heads.
    cross_attention_dim=config.text_width,
  )
  adapter = diffusers.MotionAdapter(
    block_out_channels=config.widths,
    motion_layers_per_block=config.units,
    motion_norm_num_groups=config.groups,
    motion_num_attention_heads=config.heads,
    use_motion_mid_block=False,
  )
  shaken(image, seed), shaken(adapter, seed + 1)
  return diffusers.UNetMotionModel.from_unet2d(image, adapter).eval(), image, adapter


@functools.cache
def saved(case, folder):
  """Save the models of a case: whole, image network, adapter; return the whole's prediction."""
  config, frames, _ = CASES[case]
  whole, image, adapter = theirs(config, case)
  whole.save_pretrained(folder / 'whole')
  image.save_pretrained(folder / 'image' / 'unet')
  adapter.save_pretrained(folder / 'adapter')
  x, text, t = inputs(case)
  with torch.no_grad():
    predicted = whole(
      torch.from_numpy(x.transpose(0, 4, 1, 2, 3).copy()),
      torch.from_numpy(t),
      # It expects the text of each frame.
      torch.from_numpy(text).repeat_interleave(frames, 0),
    ).sample
  return predicted.numpy().transpose(0, 2, 3, 4, 1)


def inputs(case):
  config, frames, size = CASES[case]
  rng = np.random.default_rng(case)
  x = rng.normal(size=(2, frames, *size, config.channels)).astype(np.float32)
  text = rng.normal(size=(2, 7, config.text_width)).astype(np.float32)
  return x, text, np.array([999.0, 20.0], np.float32)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('diffusers')


def ours(case, params, **changes):
  """Return our network's prediction for the inputs of a case."""
  config = dataclasses.replace(CASES[case][0], **changes)
  encoders = {'clip_l': TextEncoderSpec(config.text_width, 7, 7)}
  graphdef = nnx.graphdef(nnx.eval_shape(lambda: UNet(config, encoders, rngs=nnx.Rngs(0))))
  x, text, t = inputs(case)
  params = jax.tree.map(np.asarray, params)  # They are read now.
  condition = Condition({'clip_l': caption_tokens(text, np.array([7, 7]))})
  return jax.jit(lambda params, *args: nnx.merge(graphdef, params)(*args))(params, x, t, condition)


def relative(got, wanted):
  return float(np.abs(got - wanted).max() / np.abs(wanted).max())


# The last case compiles in seconds, the others in up to a minute.
@pytest.mark.parametrize(
  'case',
  [*(pytest.param(i, marks=pytest.mark.slow) for i in range(len(CASES) - 1)), len(CASES) - 1],
)
def test_the_unet_predicts_what_that_of_diffusers_does(case, folder):
  wanted = saved(case, folder / str(case))
  assert wanted.std() > 0.05
  sources = [
    str(folder / str(case) / 'whole'),
    f'{folder / str(case) / "image"}, {folder / str(case) / "adapter"}',
  ]
  first, second = (pretrained.load(source, CASES[case][0]) for source in sources)
  assert jax.tree.all(jax.tree.map(np.array_equal, first, second))
  error = relative(ours(case, first), wanted)
  print(f'case {case}: relative error {error:.1e}')
  assert error < 1e-4


def test_frames_are_unconnected_without_motion_modules(folder):
  saved(0, folder / '0')
  params = pretrained.load(str(folder / '0' / 'image'), CASES[0][0])
  assert 'motion' not in params['down']['0']['units']['0']


def test_the_table_is_read_in_both_directions(folder):
  saved(0, folder / '0')
  weights = read(folder / '0' / 'whole')
  params = pretrained.load(str(folder / '0' / 'whole'), CASES[0][0])
  tensors = export_tensors(pretrained.table(CASES[0][0]), params)
  assert set(weights.tensors) - set(tensors) == {n for n in weights.tensors if 'pos_embed' in n}
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(tensor, weights.tensors[name])
    assert tensor.flags.c_contiguous


def test_weights_in_several_files(folder, tmp_path):
  _, image, _ = theirs(CASES[0][0], 0)
  image.save_pretrained(tmp_path / 'cut', max_shard_size='100KB')
  assert len(list((tmp_path / 'cut').glob('*.safetensors'))) > 2
  saved(0, folder / '0')
  cut, whole = (
    pretrained.load(str(path), CASES[0][0]) for path in (tmp_path / 'cut', folder / '0' / 'image')
  )
  assert jax.tree.all(jax.tree.map(np.array_equal, cut, whole))


def test_positions_are_those_of_diffusers():
  table = diffusers.models.embeddings.SinusoidalPositionalEmbedding(320, 32).pe[0]
  np.testing.assert_allclose(positions(32, 320), table, atol=2e-6)


def test_text_of_clip_fits():
  """Use embeddings as from Stable Diffusion's text encoder, with a smaller vocabulary."""
  config = transformers.CLIPTextConfig(
    vocab_size=99,
    hidden_size=768,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=12,
  )
  model = transformers.CLIPTextModel(config).eval()
  tokens = torch.randint(0, 99, (2, config.max_position_embeddings))
  with torch.no_grad():
    embedding = model(tokens).last_hidden_state.numpy()
  assert embedding.shape == (2, CLIP_L.length, CLIP_L.dim)
  small = dataclasses.replace(CASES[0][0], text_width=CLIP_L.dim)
  model = UNet(small, {'clip_l': CLIP_L}, rngs=nnx.Rngs(0))
  text = {'clip_l': caption_tokens(embedding, np.array([77, 77]))}
  read, bits = model.text(text)
  # Without projection, as its attention layers were trained.
  np.testing.assert_array_equal(read, embedding)
  assert (np.asarray(bits) == -1).all()
  assert not jax.tree.leaves(nnx.state(model.text))
