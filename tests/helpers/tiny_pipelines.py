"""Save tiny image-to-video pipelines of diffusers with random weights, as releases are saved.

The folder `texts` receives the text encoder.
"""

from pathlib import Path

import diffusers
import torch
import transformers

from tests.helpers import tiny_models

_WIDTH = 16  # Of the text encoders of `tiny_models.t5`.


def _t5(folder: Path, multilingual: bool):
  tiny_models.t5(folder, multilingual)
  kind = transformers.UMT5EncoderModel if multilingual else transformers.T5EncoderModel
  return kind.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)


def _vision(hidden: int, projected: int | None = None):
  config = transformers.CLIPVisionConfig(
    hidden_size=hidden,
    intermediate_size=24,
    projection_dim=projected or 512,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=224,
    patch_size=56,
  )
  kinds = transformers.CLIPVisionModel, transformers.CLIPVisionModelWithProjection
  return kinds[projected is not None](config), transformers.CLIPImageProcessor()


def wan21(folder: Path, texts: Path) -> Path:
  """Save an image-to-video pipeline of Wan 2.1."""
  return _wan(folder, texts, False)


def wan22(folder: Path, texts: Path) -> Path:
  """Save a pipeline like Wan 2.2 TI2V 5B, with a diffusion time per frame."""
  return _wan(folder, texts, True)


def _wan(folder: Path, texts: Path, first_frame_times: bool) -> Path:
  torch.manual_seed(0)
  encoder, tokenizer = _t5(texts, True)
  vae = diffusers.AutoencoderKLWan(
    base_dim=3,
    z_dim=16,
    dim_mult=[1, 1, 1, 1],
    num_res_blocks=1,
    temperal_downsample=[False, True, True],
  )
  vision, processor = (None, None) if first_frame_times else _vision(8)
  transformer = diffusers.WanTransformer3DModel(
    patch_size=(1, 2, 2),
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=16 if first_frame_times else 36,
    out_channels=16,
    text_dim=_WIDTH,
    freq_dim=32,
    ffn_dim=24,
    num_layers=1,
    cross_attn_norm=True,
    qk_norm='rms_norm_across_heads',
    rope_max_seq_len=32,
    image_dim=None if first_frame_times else 8,
  )
  pipeline = diffusers.WanImageToVideoPipeline(
    tokenizer=tokenizer,
    text_encoder=encoder,
    vae=vae,
    scheduler=diffusers.UniPCMultistepScheduler(
      prediction_type='flow_prediction', use_flow_sigmas=True, flow_shift=3.0
    ),
    transformer=transformer,
    image_encoder=vision,
    image_processor=processor,
    expand_timesteps=first_frame_times,
  )
  pipeline.save_pretrained(folder)
  return folder


def cogvideox(folder: Path, texts: Path) -> Path:
  """Save a CogVideoX image-to-video pipeline."""
  torch.manual_seed(0)
  encoder, tokenizer = _t5(texts, False)
  vae = diffusers.AutoencoderKLCogVideoX(
    down_block_types=('CogVideoXDownBlock3D',) * 4,
    up_block_types=('CogVideoXUpBlock3D',) * 4,
    block_out_channels=(8, 8, 8, 8),
    latent_channels=4,
    layers_per_block=1,
    norm_num_groups=2,
    temporal_compression_ratio=4,
  )
  transformer = diffusers.CogVideoXTransformer3DModel(
    num_attention_heads=2,
    attention_head_dim=16,
    in_channels=8,
    out_channels=4,
    time_embed_dim=2,
    text_embed_dim=_WIDTH,
    num_layers=1,
    sample_width=6,
    sample_height=4,
    sample_frames=9,
    patch_size=2,
    temporal_compression_ratio=4,
    max_text_seq_length=226,
    use_rotary_positional_embeddings=True,
    use_learned_positional_embeddings=True,
  )
  diffusers.CogVideoXImageToVideoPipeline(
    tokenizer, encoder, vae, transformer, diffusers.CogVideoXDDIMScheduler()
  ).save_pretrained(folder)
  return folder


def svd(folder: Path, texts: Path) -> Path:
  """Save a Stable Video Diffusion pipeline."""
  torch.manual_seed(0)
  unet = diffusers.UNetSpatioTemporalConditionModel(
    block_out_channels=(32, 64),
    layers_per_block=1,
    sample_size=8,
    in_channels=8,
    out_channels=4,
    down_block_types=('CrossAttnDownBlockSpatioTemporal', 'DownBlockSpatioTemporal'),
    up_block_types=('UpBlockSpatioTemporal', 'CrossAttnUpBlockSpatioTemporal'),
    cross_attention_dim=32,
    num_attention_heads=8,
    projection_class_embeddings_input_dim=96,
    addition_time_embed_dim=32,
  )
  vae = diffusers.AutoencoderKLTemporalDecoder(
    block_out_channels=[32, 64],
    in_channels=3,
    out_channels=3,
    down_block_types=['DownEncoderBlock2D', 'DownEncoderBlock2D'],
    latent_channels=4,
  )
  vision, processor = _vision(16, 32)
  diffusers.StableVideoDiffusionPipeline(
    vae, vision, unet, diffusers.EulerDiscreteScheduler(prediction_type='v_prediction'), processor
  ).save_pretrained(folder)
  return folder


def i2vgen(folder: Path, texts: Path) -> Path:
  """Save an I2VGen-XL pipeline."""
  torch.manual_seed(0)
  tiny_models.clip_text(texts)
  unet = diffusers.I2VGenXLUNet(
    block_out_channels=(4, 8),
    layers_per_block=1,
    sample_size=8,
    in_channels=4,
    out_channels=4,
    down_block_types=('CrossAttnDownBlock3D', 'DownBlock3D'),
    up_block_types=('UpBlock3D', 'CrossAttnUpBlock3D'),
    cross_attention_dim=12,
    attention_head_dim=4,
    num_attention_heads=None,
    norm_num_groups=2,
  )
  vae = diffusers.AutoencoderKL(
    block_out_channels=(8,),
    in_channels=3,
    out_channels=3,
    down_block_types=['DownEncoderBlock2D'],
    up_block_types=['UpDecoderBlock2D'],
    latent_channels=4,
    sample_size=32,
    norm_num_groups=2,
  )
  vision, processor = _vision(12, 12)
  diffusers.I2VGenXLPipeline(
    vae=vae,
    text_encoder=transformers.CLIPTextModel.from_pretrained(texts),
    tokenizer=transformers.CLIPTokenizer.from_pretrained(texts, model_max_length=77),
    image_encoder=vision,
    feature_extractor=processor,
    unet=unet,
    scheduler=diffusers.DDIMScheduler(),
  ).save_pretrained(folder)
  return folder
