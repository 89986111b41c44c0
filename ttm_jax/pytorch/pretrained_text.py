"""A pretrained text encoder of transformers: CLIP, T5, UL2, umT5, ByT5.

Embeddings are the last hidden states, cast to float16 as in the training datasets, and zero on
padding. Encoders of the T5 family mask their padding, so only the real tokens are valid. CLIP
attends to all 77 positions, and diffusion models are trained with all of them, so for CLIP all
positions are valid.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ttm_jax.errors import InputError

from .pretrained import check_texts, load_model, load_part


class PretrainedText:
  """(texts, length) -> embeddings and numbers of valid tokens.

  Attributes:
    model: the transformers model.
    dim: width of the embeddings.
    longest: largest length, or None for encoders with relative positions (T5).
  """

  def __init__(self, source: str, device: Any, dtype: torch.dtype, local_files_only: bool = False):
    """Load the encoder.

    Args:
      source: local folder, or repository id on the Hugging Face Hub.
      device: PyTorch device.
      dtype: of the weights.
      local_files_only: do not use the network.

    Raises:
      InputError: as in `load_part` and `load_model`.
    """
    import transformers

    kinds: dict[str, Any] = {
      'clip': transformers.CLIPTextModel,
      'clip_text_model': transformers.CLIPTextModel,
      't5': transformers.T5EncoderModel,
      'umt5': transformers.UMT5EncoderModel,
      'mt5': transformers.MT5EncoderModel,
    }
    config = load_part(transformers.AutoConfig, source, local_files_only)
    self._tokenizer = load_part(transformers.AutoTokenizer, source, local_files_only)
    kind = kinds.get(config.model_type, transformers.AutoModel)
    self.model = load_model(kind, source, local_files_only, dtype=dtype).to(device)
    self._all_count = 'clip' in config.model_type
    # A CLIP configuration has a separate section for its text model.
    text = getattr(config, 'text_config', config)
    self.dim = int(getattr(text, 'd_model', None) or text.hidden_size)
    self.longest = getattr(text, 'max_position_embeddings', None)

  def __call__(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Encode n texts.

    A text of more than `length` tokens is truncated; its last token is then the end-of-text token.

    Returns:
      Embeddings float16 [n, length, dim] and numbers of valid tokens int32 [n].

    Raises:
      InputError: if a text is not valid Unicode, or an embedding exceeds the range of float16.
    """
    check_texts(texts)
    rows = [self.one(text, length) for text in texts]
    return np.stack([row for row, _ in rows]), np.array([count for _, count in rows], np.int32)

  @torch.inference_mode()
  def one(self, text: str, length: int) -> tuple[np.ndarray, int]:
    """Encode one text: its embedding float16 [length, dim] and its number of valid tokens."""
    tokens = self._tokenizer(
      [text], padding='max_length', truncation=True, max_length=length, return_tensors='pt'
    ).to(self.model.device)
    # CLIP was trained, and is used by diffusion models, without a padding mask.
    mask = None if self._all_count else tokens.attention_mask
    state = self.model(tokens.input_ids, attention_mask=mask).last_hidden_state[0]
    count = length if self._all_count else int(tokens.attention_mask.sum())
    state[count:] = 0
    values = state.float().cpu().numpy()
    if not np.abs(values).max(initial=0) < np.finfo(np.float16).max:
      raise InputError(
        f'an embedding exceeds the range of float16 in {self.model.dtype}: run the text encoder in'
        ' float32'
      )
    return values.astype(np.float16), count
