"""Encode a clips dataset into a latents dataset for one preset.

    python -m data_tools.encode --clips datasets/scenes --out datasets/scenes-dit --preset dit \\
        --codec lapped:2x6x6x32

--clips may be a folder of several datasets, such as the buckets of `data_tools.prepare`. Each is
encoded into a folder of the same name in --out, with one codec, so that --config.data.path=OUT
trains on all (see `ttm_jax.data.mixture`).

--codec names a codec folder or the run that trained the codec. `linear:TxHxWxC` fits a linear codec
to the training clips, with patches of T x H x W pixels and C latent channels; `lapped:TxHxWxC` lets
the patches overlap, so that no edges show between them. `sd_vae:SOURCE`,
`wan21_vae:SOURCE` and `wan22_vae:SOURCE` take open weights from a folder or a hub id. The codecs of
Wan need clips of 4 n + 1 frames.

By default, texts are stored as word ids, whose embeddings are trained with the network. --text adds
embeddings from pretrained text encoders, which need PyTorch:

    --text clip=openai/clip-vit-large-patch14:77:77 --text t5=google/umt5-xxl:256:64

For pretrained encoders, the prefix of the preset is added to captions and motion prompts (dit:
"FPS-24", from the frame rate of the clips). The dataset stores the model ids and the prefix, so
that generation encodes texts the same way.
"""

import argparse
from collections.abc import Sequence

from ttm_jax.arguments import command_parser
from ttm_jax.data.schema import MASKS, MAX_OBJECTS, TRAJECTORIES
from ttm_jax.errors import front_door
from ttm_jax.parallel.compilation_cache import HELP
from ttm_jax.preset_names import DEFAULT, NAMES
from ttm_jax.pytorch.annotation.model_source import DTYPES
from ttm_jax.trajectory import PALETTES


def main(argv: Sequence[str] | None = None) -> None:
  args = parser().parse_args(argv)
  from data_tools.commands import encode

  encode.run(args)


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = command_parser('data_tools.encode', __doc__)
  made.add_argument('--clips', required=True, help='clips dataset, or a folder of several')
  made.add_argument('--out', required=True, help='folder of the latents dataset; must not exist')
  made.add_argument('--preset', choices=NAMES, help=f'backbone; default {DEFAULT}')
  made.add_argument(
    '--config',
    help='training configuration (path or name) that the dataset is for; its model determines the'
    ' token grids; default: the default configuration of the preset',
  )
  made.add_argument(
    '--codec',
    required=True,
    help='codec folder, training run, linear:TxHxWxC, lapped:TxHxWxC, or NAME:SOURCE',
  )
  made.add_argument(
    '--palette',
    choices=sorted(PALETTES),
    default='spread8',
    help='colors of the trajectory; default spread8; the paper uses supervision_half',
  )
  made.add_argument(
    '--trajectory',
    choices=TRAJECTORIES,
    default=MASKS,
    help='what stage 1 generates: masks of objects, or optical flow (table 4 of the paper)',
  )
  made.add_argument(
    '--flow',
    help="--trajectory flow: safetensors file of torchvision's raft_large; default: the motion of"
    ' the label maps',
  )
  made.add_argument(
    '--max_objects',
    type=int,
    default=MAX_OBJECTS,
    help=f'object prompts per clip; default {MAX_OBJECTS}',
  )
  made.add_argument(
    '--variants', type=int, default=1, help='augmented records per training clip; default 1'
  )
  made.add_argument(
    '--corrupt',
    type=float,
    default=0.0,
    help='fraction of variants with corrupted masks, 0 to 1; default 0',
  )
  made.add_argument(
    '--permute',
    action=argparse.BooleanOptionalAction,
    default=True,
    help='permute the object ids, and so their colors, at random; without it, a model quickly'
    ' learns to bind objects to ids by their order in the caption',
  )
  made.add_argument(
    '--text',
    action='append',
    default=[],
    help='NAME=MODEL:LENGTH:PROMPT_LENGTH (tokens); repeat for each pretrained text encoder',
  )
  made.add_argument(
    '--text_prefix', help="caption prefix for --text encoders; '' for none; default: the preset's"
  )
  made.add_argument(
    '--text_device', default='auto', help='PyTorch device; default a GPU if available'
  )
  made.add_argument(
    '--text_dtype',
    default='auto',
    choices=['auto', *DTYPES],
    help='default bfloat16 on a GPU, float32 on a CPU',
  )
  made.add_argument('--offline', action='store_true', help='do not download models')
  made.add_argument('--compilation_cache', default='', help=HELP)
  made.add_argument('--words', action='store_true', help='store word ids in addition to --text')
  made.add_argument(
    '--words_dim', type=int, default=128, help='width of word embeddings, a multiple of 4'
  )
  made.add_argument('--words_length', type=int, default=48, help='words per caption')
  made.add_argument('--words_prompt_length', type=int, default=16, help='words per object prompt')
  return made


def cli() -> None:
  """Run the command, as `python -m` does."""
  with front_door():
    main()


if __name__ == '__main__':
  cli()
