"""The trained models as PyTorch modules without JAX: the code of an exported folder.

An exported folder holds copies of these modules as flat files, see `sources`. They import each
other only as `from .module import name`: diffusers follows exactly that form when it loads code
from such a folder. They need torch, diffusers, transformers, safetensors, numpy, pillow, av and
tqdm. Videos and latents are channels first, [B, C, T, H, W], as in diffusers.

NumPy code that the JAX models use too (label maps, errors, images, requests) is outside of this
package. An export copies the modules of that code that these modules import.
"""

from typing import Any


def __getattr__(name: str) -> Any:
  """Import `TTMPipeline` or `TTMPipelineOutput`, and with it PyTorch, on first access.

  Raises:
    AttributeError: for any other name.
  """
  if name in ('TTMPipeline', 'TTMPipelineOutput'):
    from .pipeline import TTMPipeline, TTMPipelineOutput

    return {'TTMPipeline': TTMPipeline, 'TTMPipelineOutput': TTMPipelineOutput}[name]
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
