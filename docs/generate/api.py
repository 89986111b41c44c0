"""The pages of the Python interface; mkdocstrings fills them with the docstrings."""

from pathlib import Path

ROOT = Path(__file__).parents[2]

# Page, its introduction, and its modules; `.*` stands for all modules of a package.
PAGES: dict[str, tuple[str, tuple[str, ...]]] = {
  'Trajectories': (
    'Label maps: read, write, edit, draw, and turn into what the networks read.',
    (
      'ttm_jax.trajectory',
      'ttm_jax.trajectory_edits',
      'ttm_jax.media.label_images',
      'ttm_jax.media.images',
      'ttm_jax.media.video_io',
      'ttm_jax.optical_flow',
    ),
  ),
  'Generation': (
    'From an image and prompts to a trajectory and a video.',
    (
      'ttm_jax.inference.pipeline',
      'ttm_jax.inference.request',
      'ttm_jax.inference.image_description',
      'ttm_jax.inference.sizes',
    ),
  ),
  'Data': (
    'Scenes, datasets, encoding and loading.',
    (
      'ttm_jax.scenes.generator',
      'ttm_jax.scenes.lookalikes',
      'ttm_jax.data.schema',
      'ttm_jax.data.clips',
      'ttm_jax.data.encode',
      'ttm_jax.data.context',
      'ttm_jax.data.latents',
      'ttm_jax.data.loader',
      'ttm_jax.data.mixture',
    ),
  ),
  'Tasks and processes': (
    'What is generated from what, conditions, and noise processes.',
    (
      'ttm_jax.tasks',
      'ttm_jax.conditioning',
      'ttm_jax.processes.*',
    ),
  ),
  'Networks': (
    'Presets, backbones and the layers that are special to the method.',
    (
      'ttm_jax.presets',
      'ttm_jax.models.preset',
      'ttm_jax.models.transformer_config',
      'ttm_jax.models.dit.model',
      'ttm_jax.models.unet.model',
      'ttm_jax.models.wan.model',
      'ttm_jax.nn.masked_attention',
      'ttm_jax.nn.lora',
    ),
  ),
  'Object attention': (
    'The attention rule and its implementations.',
    ('ttm_jax.ops.object_attention.api', 'ttm_jax.ops.object_attention.order'),
  ),
  'Codecs': (
    'Autoencoders.',
    (
      'ttm_jax.codecs.base',
      'ttm_jax.codecs.registry',
      'ttm_jax.codecs.folder',
      'ttm_jax.codecs.linear',
      'ttm_jax.codecs.tae',
      'ttm_jax.codecs.sd_vae',
      'ttm_jax.codecs.wan_vae',
    ),
  ),
  'Training': (
    'The loop, its objectives, runs and checkpoints.',
    (
      'ttm_jax.settings',
      'ttm_jax.training.loop',
      'ttm_jax.training.objective',
      'ttm_jax.training.denoising',
      'ttm_jax.training.distillation',
      'ttm_jax.training.codec',
      'ttm_jax.training.optimizer',
      'ttm_jax.training.state',
      'ttm_jax.training.step',
      'ttm_jax.training.checkpoint',
      'ttm_jax.training.best',
      'ttm_jax.training.runs',
      'ttm_jax.training.sources',
      'ttm_jax.parallel.mesh',
    ),
  ),
  'Metrics': (
    'Metrics, intervals and scored systems.',
    (
      'ttm_jax.metrics.base',
      'ttm_jax.metrics.registry',
      'ttm_jax.metrics.options',
      'ttm_jax.metrics.intervals',
      'ttm_jax.metrics.motion',
      'ttm_jax.metrics.rows_cache',
      'ttm_jax.metrics.systems',
    ),
  ),
  'PyTorch': (
    'What runs an exported folder, without JAX.',
    (
      'ttm_jax.pytorch.pipeline',
      'ttm_jax.pytorch.schedulers',
      'ttm_jax.pytorch.segmentation',
      'ttm_jax.pytorch.annotation.describe',
    ),
  ),
  'Errors': ('Errors that a user can fix.', ('ttm_jax.errors',)),
}


def file_name(title: str) -> str:
  """Return the path of a page, relative to the documentation."""
  return f'reference/api/{title.lower().replace(" ", "-")}.md'


def modules(title: str) -> list[str]:
  """Return the modules of a page.

  Args:
    title: a key of PAGES.
  """
  found: list[str] = []
  for name in PAGES[title][1]:
    package, _, last = name.rpartition('.')
    files = sorted((ROOT / package.replace('.', '/')).glob('[a-z]*.py'))
    found += [f'{package}.{file.stem}' for file in files] if last == '*' else [name]
  return found


def page(title: str) -> str:
  """Return a page as Markdown with one directive per module.

  Args:
    title: a key of PAGES.
  """
  lines = [f'# {title}', '', PAGES[title][0], '']
  for module in modules(title):
    lines += [f'## {module}', '', f'::: {module}', '']
  return '\n'.join(lines)
