"""Save tiny models of the real classes with random weights, in the folder layout of releases."""

import json
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SIDE = 64  # Height and width in pixels of the images for SAM 2.


def _save(folder: Path, model) -> Path:
  model.eval().save_pretrained(folder)
  assert list(folder.glob('*.safetensors'))
  return folder


def byte_tokenizer(folder: Path, extra=(), **special) -> int:
  """Save a byte-level tokenizer with the given special tokens; return its vocabulary size."""
  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  words = [*special.values(), *extra, *letters]
  made = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=[]))
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  if 'bos_token' in special and 'eos_token' in special:
    start, end = special['bos_token'], special['eos_token']
    made.post_processor = processors.TemplateProcessing(
      single=f'{start} $A {end}',
      special_tokens=[(t, words.index(t)) for t in (start, end)],
    )
  elif 'eos_token' in special:
    end = special['eos_token']
    made.post_processor = processors.TemplateProcessing(
      single=f'$A {end}', special_tokens=[(end, words.index(end))]
    )
  PreTrainedTokenizerFast(
    tokenizer_object=made, additional_special_tokens=list(extra), **special
  ).save_pretrained(folder)
  return len(words)


def _llama_config(size: int, layers: int) -> transformers.LlamaConfig:
  return transformers.LlamaConfig(
    vocab_size=size,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=layers,
    num_attention_heads=2,
    max_position_embeddings=8192,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=0,
  )


def llama(folder: Path, template: str | None = None) -> Path:
  """Save a LLaMA model and tokenizer, optionally with a chat template; return the folder."""
  size = byte_tokenizer(folder, pad_token='<pad>')
  config = _llama_config(size, layers=2)
  torch.manual_seed(0)
  _save(folder, transformers.LlamaForCausalLM(config))
  if template:
    (folder / 'chat_template.jinja').write_text(template)
  return folder


def grounding_dino(folder: Path) -> Path:
  """Save a Grounding DINO model and processor; return the folder."""
  # Grounding DINO hard-codes the BERT ids of the tokens that separate labels.
  vocabulary = [f'[unused{i}]' for i in range(1030)]
  vocabulary[0], vocabulary[100], vocabulary[101], vocabulary[102], vocabulary[103] = (
    '[PAD]',
    '[UNK]',
    '[CLS]',
    '[SEP]',
    '[MASK]',
  )
  vocabulary[1012], vocabulary[1029] = '.', '?'
  letters = 'abcdefghijklmnopqrstuvwxyz'
  vocabulary += [*letters, *(f'##{letter}' for letter in letters)]
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'vocab.txt').write_text('\n'.join(vocabulary))
  tokenizer = transformers.BertTokenizer.from_pretrained(folder)
  from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
    GroundingDinoImageProcessorPil,
  )

  images = GroundingDinoImageProcessorPil(size={'shortest_edge': 64, 'longest_edge': 96})
  transformers.GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)
  config = transformers.GroundingDinoConfig(
    backbone_config=transformers.SwinConfig(
      image_size=64,
      embed_dim=8,
      depths=[1, 1, 1, 1],
      num_heads=[1, 1, 2, 2],
      window_size=4,
      out_features=['stage2', 'stage3', 'stage4'],
    ),
    text_config=transformers.BertConfig(
      vocab_size=len(vocabulary),
      hidden_size=16,
      num_hidden_layers=1,
      num_attention_heads=2,
      intermediate_size=24,
    ),
    d_model=32,
    encoder_layers=1,
    encoder_ffn_dim=48,
    encoder_attention_heads=2,
    decoder_layers=2,
    decoder_ffn_dim=48,
    decoder_attention_heads=2,
    num_queries=12,
    disable_custom_kernels=True,
  )
  torch.manual_seed(0)
  return _save(folder, transformers.GroundingDinoForObjectDetection(config))


def sam2_video(folder: Path) -> Path:
  """Save a SAM 2 video model; return the folder."""
  cells = SIDE // 16
  config = transformers.Sam2VideoConfig(
    vision_config=transformers.Sam2VisionConfig(
      backbone_config=transformers.Sam2HieraDetConfig(
        hidden_size=16,
        image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 2, 2, 2],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
      ),
      backbone_channel_list=[128, 64, 32, 16],
      backbone_feature_sizes=[[cells * 4] * 2, [cells * 2] * 2, [cells] * 2],
      fpn_hidden_size=128,
    ),
    prompt_encoder_config={'hidden_size': 128, 'image_size': SIDE},
    mask_decoder_config={
      'hidden_size': 128,
      'mlp_dim': 32,
      'num_attention_heads': 2,
      'iou_head_hidden_dim': 32,
    },
    image_size=SIDE,
    memory_attention_hidden_size=128,
    memory_attention_num_layers=1,
    memory_attention_feed_forward_hidden_size=32,
    memory_attention_rope_feat_sizes=[cells, cells],
    memory_encoder_hidden_size=128,
    memory_encoder_output_channels=64,
    mask_downsampler_embed_dim=128,
    memory_fuser_embed_dim=128,
    memory_fuser_intermediate_dim=32,
    memory_fuser_num_layers=1,
  )
  torch.manual_seed(0)
  return _save(folder, transformers.Sam2VideoModel(config))


def clip_vision(folder: Path) -> Path:
  """Save a CLIP vision model and image processor; return the folder."""
  torch.manual_seed(0)
  _save(folder, transformers.CLIPVisionModelWithProjection(_clip_vision_config()))
  _clip_processor(folder)
  return folder


def _clip_vision_config() -> transformers.CLIPVisionConfig:
  return transformers.CLIPVisionConfig(
    hidden_size=16,
    intermediate_size=24,
    projection_dim=12,
    num_hidden_layers=1,
    num_attention_heads=2,
    image_size=16,
    patch_size=8,
  )


def _clip_processor(folder: Path) -> None:
  values = {
    'image_processor_type': 'CLIPImageProcessor',
    'size': {'shortest_edge': 16},
    'crop_size': {'height': 16, 'width': 16},
    'image_mean': [0.5] * 3,
    'image_std': [0.25] * 3,
    'do_resize': True,
    'do_center_crop': True,
    'do_normalize': True,
    'do_rescale': True,
  }
  (folder / 'preprocessor_config.json').write_text(json.dumps(values))


def clip(folder: Path) -> Path:
  """Save a CLIP model of both kinds with its image processor and tokenizer; return the folder."""
  config = transformers.CLIPConfig(
    vision_config=_clip_vision_config().to_dict(),
    text_config=_clip_text_config(_clip_tokenizer(folder)).to_dict(),
    projection_dim=12,
  )
  torch.manual_seed(0)
  _save(folder, transformers.CLIPModel(config))
  _clip_processor(folder)
  return folder


def vjepa(folder: Path) -> Path:
  """Save a V-JEPA 2 classifier of 4 frames of 32 x 32 pixels; return the folder."""
  config = transformers.VJEPA2Config(
    crop_size=32,
    frames_per_clip=4,
    patch_size=16,
    hidden_size=24,
    num_attention_heads=2,
    num_hidden_layers=1,
    num_pooler_layers=1,
    pred_hidden_size=24,
    pred_num_attention_heads=2,
    pred_num_hidden_layers=1,
    num_labels=5,
  )
  torch.manual_seed(0)
  return _save(folder, transformers.VJEPA2ForVideoClassification(config))


def _clip_tokenizer(folder: Path) -> int:
  return byte_tokenizer(
    folder, bos_token='<|startoftext|>', eos_token='<|endoftext|>', pad_token='<pad>'
  )


def _clip_text_config(size: int) -> transformers.CLIPTextConfig:
  return transformers.CLIPTextConfig(
    vocab_size=size,
    hidden_size=12,
    intermediate_size=16,
    projection_dim=12,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=77,
    eos_token_id=1,
    bos_token_id=0,
    pad_token_id=2,
  )


def clip_text(folder: Path) -> Path:
  """Save a CLIP text model and tokenizer; return the folder."""
  config = _clip_text_config(_clip_tokenizer(folder))
  torch.manual_seed(0)
  return _save(folder, transformers.CLIPTextModel(config))


def t5(folder: Path, multilingual: bool = False) -> Path:
  """Save a T5 or UMT5 encoder and tokenizer; return the folder."""
  size = byte_tokenizer(folder, pad_token='<pad>', eos_token='</s>')
  kind = 'UMT5' if multilingual else 'T5'
  config = getattr(transformers, f'{kind}Config')(
    vocab_size=size, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2
  )
  torch.manual_seed(0)
  return _save(folder, getattr(transformers, f'{kind}EncoderModel')(config))


def byt5(folder: Path) -> Path:
  """Save a ByT5 encoder and tokenizer; return the folder."""
  transformers.ByT5Tokenizer().save_pretrained(folder)
  config = transformers.T5Config(
    vocab_size=384, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2
  )
  torch.manual_seed(0)
  return _save(folder, transformers.T5EncoderModel(config))


def vision_language(folder: Path) -> Path:
  """Save a LLaVA model and processor; return the folder."""
  size = byte_tokenizer(folder, extra=['<image>'], pad_token='<pad>')
  config = transformers.LlavaConfig(
    vision_config=transformers.CLIPVisionConfig(
      hidden_size=16,
      intermediate_size=24,
      num_hidden_layers=2,
      num_attention_heads=2,
      image_size=16,
      patch_size=8,
    ),
    text_config=_llama_config(size, layers=1),
    image_token_id=1,
    vision_feature_layer=-1,
  )
  torch.manual_seed(0)
  _save(folder, transformers.LlavaForConditionalGeneration(config))
  from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

  images = CLIPImageProcessorPil(size={'shortest_edge': 16}, crop_size={'height': 16, 'width': 16})
  template = (
    "{% for m in messages %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    '{% endfor %}{% endfor %} So:'
  )
  transformers.LlavaProcessor(
    images,
    transformers.AutoTokenizer.from_pretrained(folder),
    patch_size=8,
    vision_feature_select_strategy='default',
    chat_template=template,
    num_additional_image_tokens=1,
  ).save_pretrained(folder)
  return folder


def aesthetic_head(path: Path, width: int = 12) -> Path:
  """Save two random linear layers; return the file."""
  rng = np.random.default_rng(0)
  safetensors.numpy.save_file(
    {
      'layers.0.weight': rng.normal(size=(5, width)).astype(np.float32),
      'layers.0.bias': rng.normal(size=5).astype(np.float32),
      'layers.2.weight': rng.normal(size=(1, 5)).astype(np.float32),
      'layers.2.bias': rng.normal(size=1).astype(np.float32),
    },
    path,
  )
  return path
