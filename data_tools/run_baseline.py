"""Generate videos of clips with an open image-to-video model, to compare with.

    python -m data_tools.run_baseline --model wan-i2v --clips datasets/sav128 --split train \\
        --seeds 0,1 --out baselines/wan-i2v
    python -m ttm_jax.evaluate --generated baselines/wan-i2v --clips datasets/sav128 ...

The model gets the first frame and the caption of each clip. The videos are generated at the size
and length of the model that are nearest to those of the clip, then resized and resampled to the
clip. OUT holds KEY__SEED.mp4 per clip and seed, and baseline.json with the settings and with both
sizes, lengths and rates (`ttm_jax.pytorch.baselines.models.Plan`).

To resume, run the same command again: existing videos are kept. To use several processes, give each
a part of the videos (--part 1/4, --part 2/4, ...).
"""

import argparse
from collections.abc import Sequence

from ttm_jax.arguments import command_parser
from ttm_jax.errors import front_door
from ttm_jax.pytorch.baselines.models import BASELINES


def main(argv: Sequence[str] | None = None) -> None:
  args = parser().parse_args(argv)
  from data_tools.commands import run_baseline

  run_baseline.run(args)


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = command_parser('data_tools.run_baseline', __doc__)
  add = made.add_argument
  add('--model', required=True, choices=BASELINES, help='the model')
  add('--weights', help='folder or hub id of its weights; default as published')
  add('--clips', required=True, help='clips dataset')
  add('--split', default='validation', help='dataset split; default validation')
  add('--count', type=int, help='number of clips; default all')
  add('--seeds', default='0', help='seeds of the noise, with commas; default 0')
  add('--part', default='1/1', help='PART/PARTS: generate only every PARTS-th video; default all')
  add('--out', required=True, help='output folder')
  add('--steps', type=int, help='sampling steps; default that of the model')
  add('--size', help='side or HEIGHTxWIDTH to generate; default nearest to the clip')
  add('--negative', default='', help='negative prompt; default none')
  add('--offload', action='store_true', help='keep only one component at a time on the GPU')
  add('--device', default='auto', help='PyTorch device; default a GPU if available')
  add('--dtype', default='auto', help='default bfloat16 on a GPU, float32 on a CPU')
  add('--offline', action='store_true', help='do not download models')
  return made


def cli() -> None:
  """Run the command, as `python -m` does."""
  with front_door():
    main()


if __name__ == '__main__':
  cli()
