"""ViCLIP: preprocessing by its definition, the network beside CLIP, and both similarities."""

import numpy as np
import pytest

pytest.importorskip('torch', reason="torch is not installed: pip install 'ttm_jax[data]'")
pytest.importorskip('transformers', reason="not installed: pip install 'ttm_jax[data]'")

import safetensors.torch
import torch
import transformers

from tests.helpers.metric_samples import sample
from ttm_jax.errors import InputError
from ttm_jax.metrics import viclip_network
from ttm_jax.metrics.opencv_resize import resize_bilinear
from ttm_jax.metrics.options import MetricOptions
from ttm_jax.metrics.registry import make
from ttm_jax.metrics.viclip_network import prepared

WIDTH, DIM, LAYERS = 128, 16, 2


@pytest.mark.parametrize(
  'count, numbers', [(8, range(8)), (20, range(0, 16, 2)), (17, range(0, 16, 2))]
)
def test_frames_are_strided_resized_and_normalized(count, numbers):
  video = np.random.default_rng(0).integers(0, 256, (count, 30, 300, 3), np.uint8)
  found = prepared(video)
  assert found.shape == (8, 3, 224, 224) and found.dtype == torch.float32
  for frame, number in zip(found, numbers, strict=True):
    wanted = resize_bilinear(video[number], 224) / 255
    wanted = (wanted - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(frame.permute(1, 2, 0), wanted, atol=1e-5)


def attention_names(block, prefix):
  """Return CLIP's tensors of one layer under the names of ViCLIP."""
  projections = [block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj]
  return {
    f'{prefix}attn.in_proj_weight': torch.cat([p.weight for p in projections]),
    f'{prefix}attn.in_proj_bias': torch.cat([p.bias for p in projections]),
    f'{prefix}attn.out_proj.weight': block.self_attn.out_proj.weight,
    f'{prefix}attn.out_proj.bias': block.self_attn.out_proj.bias,
    f'{prefix}mlp.c_fc.weight': block.mlp.fc1.weight,
    f'{prefix}mlp.c_fc.bias': block.mlp.fc1.bias,
    f'{prefix}mlp.c_proj.weight': block.mlp.fc2.weight,
    f'{prefix}mlp.c_proj.bias': block.mlp.fc2.bias,
    f'{prefix}ln_1.weight': block.layer_norm1.weight,
    f'{prefix}ln_1.bias': block.layer_norm1.bias,
    f'{prefix}ln_2.weight': block.layer_norm2.weight,
    f'{prefix}ln_2.bias': block.layer_norm2.bias,
  }


@pytest.fixture(scope='module')
def clip():
  """A CLIP model with the sizes of the tiny ViCLIP: one frame of ViCLIP is an image of CLIP."""
  vision = transformers.CLIPVisionConfig(
    hidden_size=WIDTH,
    intermediate_size=4 * WIDTH,
    projection_dim=DIM,
    num_hidden_layers=LAYERS,
    num_attention_heads=WIDTH // 64,
    image_size=224,
    patch_size=56,
  )
  text = transformers.CLIPTextConfig(
    vocab_size=300,
    hidden_size=WIDTH,
    intermediate_size=4 * WIDTH,
    projection_dim=DIM,
    num_hidden_layers=LAYERS,
    num_attention_heads=WIDTH // 64,
    max_position_embeddings=32,
    eos_token_id=299,
  )
  torch.manual_seed(0)
  made = transformers.CLIPModel(
    transformers.CLIPConfig(
      vision_config=vision.to_dict(), text_config=text.to_dict(), projection_dim=DIM
    )
  ).eval()
  with torch.no_grad():
    for parameter in made.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  return made


@pytest.fixture(scope='module')
def tensors(clip):
  vision, text = clip.vision_model, clip.text_model
  found = {
    'temp': torch.tensor(0.01),
    'vision_encoder.class_embedding': vision.embeddings.class_embedding,
    'vision_encoder.conv1.weight': vision.embeddings.patch_embedding.weight[:, :, None],
    'vision_encoder.positional_embedding': vision.embeddings.position_embedding.weight,
    'vision_encoder.temporal_positional_embedding': torch.randn(1, 8, WIDTH),
    'vision_encoder.ln_pre.weight': vision.pre_layrnorm.weight,
    'vision_encoder.ln_pre.bias': vision.pre_layrnorm.bias,
    'vision_encoder.ln_post.weight': vision.post_layernorm.weight,
    'vision_encoder.ln_post.bias': vision.post_layernorm.bias,
    'vision_encoder.proj': clip.visual_projection.weight.T,
    'text_encoder.token_embedding.weight': text.embeddings.token_embedding.weight,
    'text_encoder.positional_embedding': text.embeddings.position_embedding.weight,
    'text_encoder.ln_final.weight': text.final_layer_norm.weight,
    'text_encoder.ln_final.bias': text.final_layer_norm.bias,
    'text_encoder.text_projection': clip.text_projection.weight.T,
  }
  for part, encoder in (('vision', vision.encoder), ('text', text.encoder)):
    for number, block in enumerate(encoder.layers):
      found |= attention_names(block, f'{part}_encoder.transformer.resblocks.{number}.')
  return {name: tensor.detach().contiguous() for name, tensor in found.items()}


@pytest.fixture(scope='module')
def options(tensors, tiny_model, tmp_path_factory):
  folder = tmp_path_factory.mktemp('viclip')
  safetensors.torch.save_file(tensors, folder / 'model.safetensors')
  weights = {'viclip': str(folder), 'clip_tokenizer': str(tiny_model('clip'))}
  return MetricOptions(device='cpu', weights=weights)


def part(tensors, name):
  return {k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)}


def test_one_frame_is_an_image_of_clip(clip, tensors):
  weights = part(tensors, 'vision_encoder.')
  weights['temporal_positional_embedding'] = torch.zeros(1, 8, WIDTH)
  frames = torch.randn(2, 1, 3, 224, 224)
  with torch.inference_mode():
    found = viclip_network.vision_features(weights, frames)
    wanted = clip.visual_projection(clip.vision_model(frames[:, 0]).pooler_output)
  torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_texts_are_those_of_clip(clip, tensors):
  tokens = torch.tensor([[5, 9, 3, 299, 0, 0], [7, 299, 299, 299, 299, 299]])
  with torch.inference_mode():
    found = viclip_network.text_features(part(tensors, 'text_encoder.'), tokens)
    wanted = clip.text_projection(clip.text_model(tokens).pooler_output)
  torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_frames_attend_to_each_other_as_one_sequence(clip, tensors):
  """Compare with CLIP's layers on the sequence that the paper describes, built by hand."""
  weights = part(tensors, 'vision_encoder.')
  frames = torch.randn(1, 3, 3, 224, 224)
  vision, rows = clip.vision_model, []
  with torch.inference_mode():
    position = weights['positional_embedding']
    rows.append(weights['class_embedding'] + position[0])
    for t in range(3):
      patches = vision.embeddings.patch_embedding(frames[:, t])[0].flatten(1).T
      for number, patch in enumerate(patches):
        time = weights['temporal_positional_embedding'][0, t]
        rows.append(patch + position[1 + number] + time)
    x = vision.pre_layrnorm(torch.stack(rows)[None])
    for layer in vision.encoder.layers:
      output = layer(x, None)
      x = output[0] if isinstance(output, tuple) else output
    wanted = clip.visual_projection(vision.post_layernorm(x[:, 0]))
    found = viclip_network.vision_features(weights, frames)
  torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_similarities(options):
  text, video, static = make(['viclip_text', 'viclip_video', 'viclip_static'], options)
  network = options.networks.get('viclip')
  one = sample(frames=9)
  a, b = network.videos(one.video), network.videos(one.clip.video)
  assert np.linalg.norm(a) == pytest.approx(1) and a.shape == (DIM,)
  assert video.measure([one])[0, 0] == pytest.approx(a @ b)
  still = np.repeat(one.clip.video[:1], 9, axis=0)
  assert static.measure([one])[0, 0] == pytest.approx(a @ network.videos(still))
  same = sample(ids=one.clip.ids, video=one.video, truth=one.video)
  assert video.measure([same])[0, 0] == pytest.approx(1)
  # The tiny tokenizer's end token has not the highest number, as that of CLIP has.
  assert -1 <= text.measure([one])[0, 0] <= 1


def test_what_cannot_be_scored(options, tensors, tmp_path):
  (metric,) = make(['viclip_video'], options)
  with pytest.raises(InputError, match='has 7 frames, but viclip_video needs at least 8'):
    metric.measure([sample(frames=7)])
  path = tmp_path / 'model.safetensors'
  some = {k: v for k, v in tensors.items() if k != 'text_encoder.text_projection'}
  safetensors.torch.save_file(some, path)
  with pytest.raises(InputError, match=r'lacks the tensor text_encoder\.text_projection'):
    MetricOptions(weights={'viclip': str(path)}).networks.get('viclip')
  path.write_bytes(b'x')
  with pytest.raises(InputError, match='is not a safetensors file'):
    MetricOptions(weights={'viclip': str(path)}).networks.get('viclip')
  away = MetricOptions(offline=True, weights={'viclip': 'nobody/nothing'})
  with pytest.raises(
    InputError, match=r'nobody/nothing: its model.safetensors could not be fetched'
  ):
    away.networks.get('viclip')
