"""Table 4 of the paper on procedural scenes: masks or optical flow as the trajectory?

    python -m ttm_jax.ablate --config=ablate_flow --workdir=runs/ablation_flow

Rows: both stages on masks (masks), the same without masked layers (masks_plain), and both stages on
optical flow (flow), which has no objects and so no masked layers. The flow is that of the label
maps, without the errors of an estimator. Stage 1 and stage 2 have as many runs as there are seeds,
and control is compared with the clip, since generated trajectories differ.

Hardware: two CPU cores, about an hour for three seeds (one core takes 75 minutes). Score: motion
accuracy (direction) of both stages .99 (masks), .82 (flow); object PSNR 18.0 and 15.7 dB.
"""

from ml_collections import ConfigDict

MOTIONS = 'left,right,up,down,stay'  # Centroids say how these move.
STAGE1_STEPS, STAGE2_STEPS = 1_200, 500


def get_config() -> ConfigDict:
  return masks_or_flow(
    'dit',
    ('demo_stage1', f'train.steps={STAGE1_STEPS}'),
    (
      *('demo_stage2', f'train.steps={STAGE2_STEPS}', 'first_frame=concat'),
      *('train.exchanged_texts=0.0', 'optimizer.muon_rate=0.02'),
    ),
  )


def masks_or_flow(preset: str, stage1: tuple[str, ...], stage2: tuple[str, ...]) -> ConfigDict:
  """Return the comparison of both representations.

  Args:
    preset: the backbone.
    stage1: configuration of its stage 1, and changes of it.
    stage2: the same of its stage 2.
  """
  config = ConfigDict()
  # Title of the report.
  config.title = 'Masks or optical flow as the trajectory, on procedural scenes'
  config.seeds = 3  # Runs of each row.
  config.clips_to_score = 256  # Validation clips that are scored.
  # Names of metrics, the columns of the table; see docs/metrics.md.
  config.metrics = (
    *('direction', 'adherence_color', 'color_drift'),
    *('object_psnr', 'psnr', 'ssim', 'pooled_frechet'),
  )
  config.clips = ''  # Clips dataset; empty to make it in the work directory, as `prepare` says.
  config.latents = ''  # Latents dataset of these clips; empty, likewise.
  encode = (
    'data_tools.encode',
    '--clips={clips}',
    f'--preset={preset}',
    '--max_objects=3',
    '--words_length=32',
    '--words_prompt_length=12',
    '--no-permute',
  )
  # Datasets that are made in the work directory, in the order of their names.
  config.prepare = ConfigDict(
    {
      # The command that makes the clips dataset.
      'clips': (
        'data_tools.make_scenes',
        '--out={clips}',
        '--train=6144',
        '--validation=256',
        f'--motions={MOTIONS}',
        '--workers=2',
      ),
      # The command that encodes it, with masks as trajectories.
      'latents': (*encode, '--out={latents}', '--codec=lapped:2x6x6x32'),
      # The same with optical flow, by the same codec.
      'latents_flow': (*encode, '--out={latents_flow}', '--codec={latents}', '--trajectory=flow'),
    }
  )
  # Configuration and changes of the run that all rows of a seed start from; empty for none.
  config.base = ()
  # Name, configuration and changes of each stage 1; empty for none. Videos from their trajectories
  # are the second table.
  first = (*stage1, 'train.sample_every=0')
  config.stage1 = (('stage1', *first), ('stage1_flow', *first, 'data.path={latents_flow}'))
  # Pairs of a row and its stage 1; by default the first.
  config.stage1_of = (('flow', 'stage1_flow'),)
  config.stage1_seeds = config.seeds  # Runs of each stage 1.
  # What metrics of control compare with: the trajectory that a video was generated from ('given'),
  # or the one of the clip ('truth').
  config.compare_with = 'truth'
  second = (*stage2, 'train.sample_every=0')
  plain = (*second, 'model.masked_blocks=0')
  # Name, configuration and changes of each row.
  config.rows = (
    ('masks', *second),
    ('masks_plain', *plain),
    ('flow', *plain, 'data.path={latents_flow}'),
  )
  config.reference = 'masks'  # The row that all others are compared with.
  # Pairs of rows; the first less the second are the lines of a table of their own.
  config.differences = (('masks_plain', 'masks'), ('flow', 'masks'), ('flow', 'masks_plain'))
  return config
