"""What `python -m data_tools.augment` does."""

import argparse
import dataclasses
from collections.abc import Sequence

from data_tools.augmentation import Variation, Varied, possible
from ttm_jax.data import records
from ttm_jax.data.clips import Clips, write_clips
from ttm_jax.data.schema import Clip
from ttm_jax.errors import InputError
from ttm_jax.outputs import check_apart


def run(args: argparse.Namespace) -> None:
  """Run the command with the flags of `data_tools.augment`.

  Raises:
    InputError: if an input is invalid, or an output cannot be written.
  """
  for name, least in (('variants', 1), ('seed', 0), ('workers', 0)):
    if getattr(args, name) < least:
      raise InputError(f'--{name} {getattr(args, name)} must be at least {least}')
  if not 0 < args.crop <= 1:
    raise InputError(f'--crop {args.crop:g}: must be above 0 and at most 1')
  check_apart('--out', [args.out], {'--clips': args.clips})
  records.check_unused(args.out)
  variation = Variation(args.variants, args.crop, args.flip, args.reverse, args.seed)
  train = Clips(args.clips, 'train')
  splits: dict[str, Sequence[Clip]] = {'train': Varied(train, variation)}
  for split in records.splits(args.clips):
    if split != 'train':
      splits[split] = Clips(args.clips, split)
  flips, backwards, reasons = possible(train)
  if args.flip:
    print(f'{flips} of {len(train)} training clips can be mirrored')
  if args.reverse:
    print(f'{backwards} of {len(train)} training clips can be reversed')
    for reason, count in reasons.most_common():
      print(f'  not reversed {count}: {reason}')
  metadata = train.records.metadata | {'augmented': dataclasses.asdict(variation)}
  write_clips(args.out, splits, metadata, args.workers)
  print(f'wrote {args.out}: ' + ', '.join(f'{len(s)} {name}' for name, s in splits.items()))
