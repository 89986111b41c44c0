"""Table 3 of the paper on scenes of look-alike objects: what do the two masked layers add?

    python -m ttm_jax.ablate --config=ablate_scenes --workdir=runs/ablation

Rows: stage 2 without masked layers (none), with masked cross-attention (cross), masked
self-attention (self), or both, and both behind gates of 0 (both_gates); both in the first two and
in all four blocks (both_k2, both_k4) instead of in the first; and TI2V, the baseline without
trajectory, whose extra layers are plain attention, so that it has the parameters of both.
All rows of a seed start from one run without masked layers, as the paper's start from a pretrained
model, and go on for the same number of steps on the same scenes.

Hardware: two CPU cores, about an hour for three seeds (two runs at a time; see docs/evidence.md).
Score: right attributes .14 (TI2V), .40 (none), .76 (cross), .40 (self), .77 (both).
"""

from ml_collections import ConfigDict

BASE_STEPS, STEPS = 1_200, 600
# Changes of all runs.
SHARED = (
  *('train.sample_every=0', 'data.batch_size=8', 'optimizer.schedule=cosine'),
  *('first_frame=concat', 'train.exchanged_texts=0.0'),
)
# Differences between rows: of masked layers from none, of one from the other, of both from one.
PAIRS = (
  *(('both', 'none'), ('cross', 'none'), ('self', 'none')),
  *(('cross', 'self'), ('both', 'cross'), ('TI2V', 'none')),
)


def get_config() -> ConfigDict:
  config = look_alikes('dit', 'demo_stage2', BASE_STEPS)
  further = continued(STEPS)
  config.stage1 = (('stage1', 'demo_stage1', *SHARED, 'train.steps=2800', 'process.mean=-1.0'),)
  config.rows = (
    *masked_rows('demo_stage2', further),
    ('both_gates', 'demo_stage2', *further, 'model.masked_init=gate'),
    ('both_k2', 'demo_stage2', *further, 'model.masked_blocks=2'),
    ('both_k4', 'demo_stage2', *further, 'model.masked_blocks=4'),
    ('TI2V', 'demo_ti2v', *further),
  )
  config.differences = PAIRS
  return config


def look_alikes(preset: str, stage2: str, base_steps: int) -> ConfigDict:
  """Return a comparison on scenes of look-alike objects, still without rows.

  Args:
    preset: the backbone.
    stage2: configuration of its stage 2.
    base_steps: training steps of the run that all rows of a seed start from.
  """
  config = ConfigDict()
  # Title of the report.
  config.title = 'Masked attention on scenes of look-alike objects'
  config.seeds = 3  # Runs of each row.
  config.clips_to_score = 256  # Validation clips that are scored.
  # Names of metrics, the columns of the table; see docs/metrics.md.
  config.metrics = (
    *('attributes', 'attributes_told', 'attributes_kept'),
    *('object_psnr', 'psnr', 'foreground_iou', 'pooled_frechet'),
  )
  config.clips = ''  # Clips dataset; empty to make it in the work directory, as `prepare` says.
  config.latents = ''  # Latents dataset of these clips; empty, likewise.
  # Datasets that are made in the work directory, in the order of their names.
  config.prepare = ConfigDict(
    {
      # The command that makes the clips dataset.
      'clips': (
        'data_tools.make_scenes',
        '--out={clips}',
        '--lookalike',
        '--train=8192',
        '--validation=256',
        '--workers=2',
      ),
      # The command that encodes it.
      'latents': (
        'data_tools.encode',
        '--clips={clips}',
        '--out={latents}',
        f'--preset={preset}',
        '--codec=lapped:2x6x6x32',
        '--max_objects=3',
        '--words_length=32',
        '--words_prompt_length=12',
        '--no-permute',
      ),
    }
  )
  # Configuration and changes of the run that all rows of a seed start from.
  config.base = (
    *(stage2, *SHARED, f'train.steps={base_steps}'),
    *('optimizer.muon_rate=0.02', 'model.masked_blocks=0'),
  )
  # Name, configuration and changes of each stage 1; empty for none. Videos from their trajectories
  # are the second table.
  config.stage1 = ()
  # Pairs of a row and its stage 1; by default the first.
  config.stage1_of = ()
  config.stage1_seeds = 1  # Runs of each stage 1.
  # What metrics of control compare with: the trajectory that a video was generated from ('given'),
  # or the one of the clip ('truth').
  config.compare_with = 'given'
  # Name, configuration and changes of each row.
  config.rows = ()
  config.reference = 'none'  # The row that all others are compared with.
  # Pairs of rows; the first less the second are the lines of a table of their own.
  config.differences = ()
  return config


def continued(steps: int) -> tuple[str, ...]:
  """Return the changes of a row: further steps from the base, at lower rates."""
  return (
    *SHARED,
    'init_from={base}',
    f'train.steps={steps}',
    'optimizer.learning_rate=1e-3',
    'optimizer.muon_rate=0.01',
    'optimizer.warmup=50',
    'model.masked_init=output',
  )


def masked_rows(stage2: str, further: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
  """Return the rows of Table 3 of the paper: neither masked layer, each alone, both."""
  return (
    ('none', stage2, *further, 'model.masked_blocks=0'),
    ('cross', stage2, *further, 'model.masked_self=False'),
    ('self', stage2, *further, 'model.masked_cross=False'),
    ('both', stage2, *further),
  )
