"""Encode a clips dataset into a latents dataset for one preset.

    python -m data_tools.encode --clips datasets/scenes --out datasets/scenes-dit --preset dit \\
        --codec linear:2x6x6x32

--clips may be a folder of several datasets, such as the buckets of `data_tools.prepare`. Each is
encoded into a folder of the same name in --out, with one codec, so that --config.data.path=OUT
trains on all (see `ttm_jax.data.mixture`).

--codec names a codec folder or the run that trained the codec. `linear:TxHxWxC` fits a linear codec
to the training clips, with patches of T x H x W pixels and C latent channels. `sd_vae:SOURCE`,
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
from typing import Any

from etils import epath

from data_tools.steps.text import TextSettings
from ttm_jax import trajectory
from ttm_jax.codecs.base import Codec
from ttm_jax.data import records
from ttm_jax.data.clips import Clips
from ttm_jax.data.context import FLOW, MASKS, TRAJECTORIES, Context, Encoding
from ttm_jax.data.description import INFO
from ttm_jax.data.encode import (
  TEXT_ENCODERS,
  Augmentation,
  EncodedClips,
  Flow,
  TextEncoder,
  flow_of_labels,
  null_text,
  rendering,
)
from ttm_jax.data.latents import write_latents
from ttm_jax.data.resolve_codec import choose_codec
from ttm_jax.data.schema import MAX_OBJECTS, Clip
from ttm_jax.errors import InputError, front_door
from ttm_jax.models.preset import Preset
from ttm_jax.outputs import check_apart
from ttm_jax.presets import DEFAULT, PRESETS, model_config, preset
from ttm_jax.pytorch.annotation.model_source import DTYPES, ModelSource
from ttm_jax.pytorch.annotation.raft import Raft
from ttm_jax.settings import load_config
from ttm_jax.text.encoders import WORDS, TextEncoderSpec
from ttm_jax.text.word_ids import MAX_LENGTH
from ttm_jax.text.words import check_width


def main(argv: Sequence[str] | None = None) -> None:
  args = parser().parse_args(argv)
  check(args)
  check_apart('--out', [args.out], {'--clips': args.clips, '--codec': args.codec})
  places = buckets(args.clips, args.out)
  for _, out in places:
    records.check_unused(out)  # Fail before the long computation.
  source = next((clips for clips, _ in places if records.count(clips, 'train')), args.clips)
  flow = flow_of(args)
  codec = choose_codec(
    args.codec,
    Clips(source, 'train'),
    lambda clip: rendering(clip, args.trajectory, args.palette, flow),
  )
  for clips, _ in places:
    # Raises InputError if the codec cannot encode this many frames.
    codec.frame_groups(len(_first(clips).ids))
  texts = text_encoders(args)
  for clips, out in places:
    encode(args, clips, out, codec, flow, *texts)


def buckets(clips: str, out: str) -> list[tuple[str, str]]:
  """Return the clips datasets to encode, each with the folder of its latents.

  Args:
    clips: a clips dataset, or the folder of the buckets that `data_tools.prepare` makes.
    out: folder of the latents; of buckets, their folders lie in it, named as those of the clips.
  """
  place = epath.Path(clips)
  if not (place / INFO).exists() and place.is_dir():
    names = sorted(inner.name for inner in place.iterdir() if (inner / INFO).exists())
    if names:
      return [(f'{clips}/{name}', f'{out}/{name}') for name in names]
  return [(clips, out)]


def _first(clips: str) -> Clip:
  return Clips(clips, records.splits(clips)[0])[0]


def encode(
  args: argparse.Namespace,
  clips: str,
  out: str,
  codec: Codec,
  flow: Flow,
  given: dict[str, TextEncoderSpec],
  encoders: dict[str, TextEncoder],
  models: dict[str, str],
) -> None:
  """Encode one clips dataset.

  Args:
    args: parsed command line.
    clips: the clips dataset.
    out: folder of the latents dataset.
    codec: the autoencoder.
    flow: see `flow_of`.
    given, encoders, models: see `text_encoders`.
  """
  splits, first = records.splits(clips), _first(clips)
  frames, height, width = first.ids.shape
  chosen, model = network(args)
  down, right = codec.stride
  encoding = Encoding(
    preset=chosen.name,
    frames=frames,
    height=height,
    width=width,
    fps=first.fps,
    palette=args.palette,
    max_objects=args.max_objects,
    encoders=given,
    grids=chosen.grids(model, height // down, width // right),
    prefix=text_prefix(args, chosen, first.fps) if models else '',
    models=models,
    trajectory=args.trajectory,
  )
  context = Context(encoding, codec, null_text(encoding, encoders))
  encoded = {}
  for split in splits:
    # Validation clips are encoded once, without augmentation.
    augmentation = (
      Augmentation(args.variants, args.permute, args.corrupt, args.corrupt > 0)
      if split == 'train'
      else Augmentation(1, False, true_masks=args.corrupt > 0)
    )
    encoded[split] = EncodedClips(Clips(clips, split), context, encoders, augmentation, flow=flow)
  write_latents(out, context, encoded)
  t, h, w, c = context.latent_shape
  print(f'{out}: latents {t} x {h} x {w} x {c}, token grids {encoding.grids}')
  if encoding.prefix:
    print(f'captions and motion prompts begin with "{encoding.prefix}" (--text_prefix)')


def check(args: argparse.Namespace) -> None:
  """Raise InputError if a numeric flag is out of range, before any file is read."""
  least = {'variants': 1, 'max_objects': 1}
  if args.words or not args.text:
    check_width(args.words_dim)
    least |= {'words_length': 1, 'words_prompt_length': 1}
    for name in ('words_length', 'words_prompt_length'):
      if getattr(args, name) > MAX_LENGTH:
        raise InputError(f'--{name} {getattr(args, name)}: must be at most {MAX_LENGTH}')
  for name, lowest in least.items():
    if getattr(args, name) < lowest:
      raise InputError(f'--{name} {getattr(args, name)} must be at least {lowest}')
  if args.trajectory == FLOW and args.corrupt:
    raise InputError('--corrupt damages masks, but --trajectory is flow; remove one of the two')
  if args.flow and args.trajectory != FLOW:
    raise InputError('--flow is for --trajectory flow; remove this flag, or add that one')
  if not 0 <= args.corrupt <= 1:
    raise InputError(f'--corrupt {args.corrupt:g}: must be from 0 to 1')


def flow_of(args: argparse.Namespace) -> Flow:
  """Return what gives the flow of a clip: RAFT with the weights of --flow, else its label maps.

  Raises:
    InputError: if the weights cannot be loaded.
  """
  if not args.flow:
    return flow_of_labels
  raft = Raft(ModelSource(args.flow, args.text_device))
  return lambda clip: raft(clip.video)


def network(args: argparse.Namespace) -> tuple[Preset, Any]:
  """Return the preset and its model configuration, which determines the token grids.

  Raises:
    InputError: if --config and --preset disagree, or the configuration cannot be read.
  """
  if args.config is None:
    chosen = preset(args.preset or DEFAULT)
    return chosen, chosen.config()
  config = load_config(args.config)
  if args.preset not in (None, config.preset):
    raise InputError(
      f'--preset {args.preset} disagrees with --config {args.config}, which has {config.preset}:'
      ' leave --preset out'
    )
  return preset(config.preset), model_config(config)


def text_prefix(args: argparse.Namespace, chosen: Preset, fps: float) -> str:
  """Return the caption prefix for pretrained encoders: from --text_prefix, else from the preset.

  Args:
    args: parsed command line.
    chosen: the preset.
    fps: frame rate of the clips, which the preset's prefix may contain.
  """
  if args.text_prefix is not None:
    return args.text_prefix.strip()
  return chosen.text_prefix.format(fps=fps)


def text_encoders(
  args: argparse.Namespace,
) -> tuple[dict[str, TextEncoderSpec], dict[str, TextEncoder], dict[str, str]]:
  """Load the text encoders that the flags name.

  Returns:
    Three dicts by encoder name: the specs (width and token counts), the encoders, and the model ids
    or folders. The last has no entry for word ids.

  Raises:
    InputError: if a flag is malformed, two encoders share a name, or a model cannot be loaded.
  """
  seen: dict[str, TextEncoderSpec] = {}
  encoders: dict[str, TextEncoder] = {}
  models: dict[str, str] = {}
  if args.words or not args.text:
    seen[WORDS] = TextEncoderSpec(args.words_dim, args.words_length, args.words_prompt_length)
    encoders[WORDS] = TEXT_ENCODERS[WORDS]
  weights = ModelSource('', args.text_device, args.text_dtype, offline=args.offline)
  for flag in args.text:
    settings = TextSettings.parse(flag, weights)
    if settings.name == WORDS or settings.name in seen:
      raise InputError(f'--text {flag}: the name {settings.name} is already used; choose another')
    seen[settings.name], encoders[settings.name] = settings.build()
    models[settings.name] = settings.weights.model
  return seen, encoders, models


def parser() -> argparse.ArgumentParser:
  """Return the parser of the command line."""
  made = argparse.ArgumentParser(
    'python -m data_tools.encode',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  made.add_argument('--clips', required=True, help='clips dataset, or a folder of several')
  made.add_argument('--out', required=True, help='folder of the latents dataset; must not exist')
  made.add_argument('--preset', choices=sorted(PRESETS), help=f'backbone; default {DEFAULT}')
  made.add_argument(
    '--config',
    help='training configuration (path or name) that the dataset is for; its model determines the'
    ' token grids; default: the default configuration of the preset',
  )
  made.add_argument(
    '--codec',
    required=True,
    help='codec folder, training run, linear:TxHxWxC, or NAME:SOURCE for open weights',
  )
  made.add_argument(
    '--palette',
    choices=sorted(trajectory.PALETTES),
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
