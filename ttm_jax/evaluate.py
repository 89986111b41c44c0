"""Score generated videos by metrics with intervals, compare two systems, run a human study.

    python -m ttm_jax.evaluate --stage1 RUN --stage2 RUN --clips DATASET --out DIR
    python -m ttm_jax.evaluate --run RUN --clips DATASET --out DIR
    python -m ttm_jax.evaluate --folder EXPORTED --clips DATASET --out DIR
    python -m ttm_jax.evaluate --generated VIDEOS --clips DATASET --against DIR --out DIR

score a pair of stages, a TI2V run, an exported folder, or videos of any system, named KEY.mp4 after
the clips. --against compares with another scored folder, or with other videos. Each writes numbers
(scores.json, .csv, .md) and a gallery (gallery.html); a pair also gets report.html, metrics.json
and samples.gif.

    python -m ttm_jax.evaluate --pairs VIDEOS VIDEOS --clips DATASET --out STUDY
    python -m ttm_jax.evaluate --votes FILE... --study STUDY

make the page of a human study, and count its votes. See docs/evaluate.md.

Runs that use pretrained text encoders (CLIP, T5, ...) need PyTorch.
"""

import argparse

from ttm_jax.arguments import command_parser
from ttm_jax.errors import front_door
from ttm_jax.inference.sampling_flags import add_mesh_flag, add_sampling_flags
from ttm_jax.metrics import defaults
from ttm_jax.parallel.compilation_cache import HELP


def main() -> None:
  """Score, make a study, or count its votes, as the command line says."""
  args = parser().parse_args()
  from ttm_jax.commands import evaluate

  evaluate.run(args)


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = command_parser('ttm_jax.evaluate', __doc__)
  add = made.add_argument_group('what is scored').add_argument
  add('--stage1', help='run of the image-to-motion stage')
  add('--stage2', help='run of the motion-to-video stage')
  add('--run', help='run of the TI2V baseline (task image_to_video)')
  add('--folder', help='exported folder, or its repository id on the Hugging Face Hub')
  add('--generated', help='folder of videos: KEY.mp4, or KEY__SEED.mp4 for several seeds')
  add('--clips', help='clips dataset: the ground truth')
  add('--split', default='validation', help='dataset split; default validation')
  add('--count', type=int, help='number of clips; default all')
  add('--out', help='output folder')
  add = made.add_argument_group('generation').add_argument
  add('--seed', type=int, default=0, help='first seed of the noise, or of a study; default 0')
  add('--seeds', type=int, help='number of noise seeds; default 1')
  add('--steps', type=int, help='sampling steps; default: as configured')
  add('--visual_scale', type=float, help='guidance scale of the image; default: as configured')
  add('--text_scale', type=float, help='guidance scale of the text; default: as configured')
  add_sampling_flags(add)
  add_mesh_flag(add)
  add(
    '--sampling_batch',
    type=int,
    default=defaults.BATCH,
    help=f'videos generated at once; default {defaults.BATCH}',
  )
  add(
    '--text',
    action='append',
    default=[],
    help='NAME=MODEL: hub id or folder of a text encoder; default: as named by the dataset',
  )
  add('--offline', action='store_true', help='download no models')
  add('--compilation_cache', default='', help=HELP)
  add = made.add_argument_group('scores').add_argument
  add(
    '--metrics',
    default='',
    help=f'names, separated by commas; default {",".join(defaults.METRICS)}, without weights',
  )
  add('--against', help='another scored folder, or a folder of videos, to compare with')
  add(
    '--allow',
    default='',
    help=f'of {",".join(defaults.DEVIATIONS)}: what may deviate from the clips',
  )
  add(
    '--draws', type=int, default=defaults.DRAWS, help=f'of the bootstrap; default {defaults.DRAWS}'
  )
  add('--show', type=int, default=64, help='clips in the gallery; default 64')
  add('--device', default='auto', help='PyTorch device of metrics; default a GPU if available')
  add(
    '--batch',
    type=int,
    default=8,
    help='frames or clips that a network of a metric takes at once; default 8',
  )
  add(
    '--weights',
    action='append',
    default=[],
    help='NAME=PLACE: hub id, file or folder of the weights of a network or a metric',
  )
  add = made.add_argument_group('human study').add_argument
  add('--pairs', nargs=2, metavar='VIDEOS', help='make a study of two folders of videos')
  add('--votes', nargs='+', metavar='FILE', help='count the votes that raters have sent')
  add('--study', help='folder of the study that the votes are of')
  return made


def cli() -> None:
  """Run the command, as `python -m` does."""
  with front_door():
    main()


if __name__ == '__main__':
  cli()
