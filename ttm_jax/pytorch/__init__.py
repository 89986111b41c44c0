"""The trained models as PyTorch modules, which need no JAX: what an exported folder carries.

The modules of this folder lie flat in an exported folder too and import each other relatively, by
`from .module import name` alone: diffusers, which brings such a folder's code in, looks for exactly
that. They need torch, diffusers, transformers, safetensors, numpy, pillow, av and tqdm.
Videos and latents are channels first here, [B, C, T, H, W], as diffusers has them.

What both worlds share (label maps, errors, images, requests) is NumPy code outside of this package.
An export copies these modules beside its own, see `sources`.
"""

from typing import Any


def __getattr__(name: str) -> Any:
  """`TTMPipeline` and its output; PyTorch is imported only when they are asked for."""
  if name in ('TTMPipeline', 'TTMPipelineOutput'):
    from .pipeline import TTMPipeline, TTMPipelineOutput

    return {'TTMPipeline': TTMPipeline, 'TTMPipelineOutput': TTMPipelineOutput}[name]
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
