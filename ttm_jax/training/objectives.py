"""Which objective a configuration asks for."""

from ml_collections import ConfigDict

from ttm_jax.data.context import Context
from ttm_jax.training.denoising import Denoising
from ttm_jax.training.distillation import Distillation
from ttm_jax.training.students import is_student


def denoising(config: ConfigDict, context: Context | None = None) -> Denoising:
  """Return the objective of a denoiser: plain training, or distillation with a section `distill`.

  Args:
    config: configuration of the run.
    context: see `Denoising`.

  Raises:
    InputError: see `Denoising` and `Distillation`.
  """
  kind = Distillation if is_student(config) else Denoising
  return kind(config, context)
