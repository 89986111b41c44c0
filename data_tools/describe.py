"""Describe an image to animate: its objects, its motion prompts and its text embeddings.

    python -m data_tools.describe --image photo.png --prompt "A brown dog runs on a beach." \\
        --llm meta-llama/Llama-3.1-8B-Instruct --detector IDEA-Research/grounding-dino-base \\
        --sam facebook/sam2.1-hiera-large --run runs/stage1 --run runs/stage2 \\
        --out photo.safetensors

The output file is the input of `ttm_jax.generate --described photo.safetensors`, which needs no
PyTorch. The command also writes photo_found.png, which shows the objects. A given segmentation,
motion prompt or object prompt is kept; the models provide the rest. The runs or latents datasets
named by --run determine the text encoders and which texts are embedded.
"""

import argparse
import dataclasses
import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_tools.drafts import Draft, Rejected
from data_tools.sources.descriptions import name_from
from data_tools.steps.detect import GroundingDino
from data_tools.steps.match import masks_of
from data_tools.steps.prompts import PromptSettings
from data_tools.steps.segment import tracker
from data_tools.steps.text import TransformersText
from data_tools.steps.weights import ModelSource, check_installed
from ttm_jax import outputs, trajectory
from ttm_jax.atomic import write_bytes
from ttm_jax.data.context import Encoding, read_encoding
from ttm_jax.data.encode import text_arrays
from ttm_jax.data.schema import MAX_OBJECTS
from ttm_jax.errors import InputError, front_door, printable
from ttm_jax.inference import cli_args, position_words
from ttm_jax.inference.image_description import Described, Embeddings
from ttm_jax.media import animations
from ttm_jax.media.images import read_image
from ttm_jax.media.label_images import check_size
from ttm_jax.text.encoders import WORDS

Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Models:
  """The models that provide the missing parts of a description.

  Each model is a folder or a Hugging Face hub id; empty means none.

  Attributes:
    llm: language model for the motion prompt, object names and object prompts.
    detector: Grounding DINO.
    sam: SAM 2.
    sam_backend: a name of `segment.BACKENDS`, or `auto`.
    threshold: minimum score of a box.
    texts: maps encoder names to models that replace those recorded in a run's dataset.
    templates: maps template fields of `PromptSettings` to replacement files.
    weights: device, dtype, batch size and offline flag; its `model` is ignored.
  """

  llm: str = ''
  detector: str = ''
  sam: str = ''
  sam_backend: str = 'auto'
  threshold: float = 0.25
  texts: Mapping[str, str] = dataclasses.field(default_factory=dict)
  templates: Mapping[str, str] = dataclasses.field(default_factory=dict)
  weights: ModelSource = dataclasses.field(default_factory=lambda: ModelSource(''))

  @classmethod
  def from_flags(cls, args: argparse.Namespace) -> 'Models':
    """Build from the parsed flags of `cli_args.add_flags`."""
    names = 'motion_template', 'objects_template'
    return cls(
      llm=args.llm or '',
      detector=args.detector or '',
      sam=args.sam or '',
      sam_backend=args.sam_backend,
      threshold=args.threshold,
      texts=cli_args.parse_texts(args.text),
      templates={name: value for name in names if (value := getattr(args, name))},
      weights=ModelSource('', args.device, args.dtype, args.model_batch, args.offline),
    )

  def of(self, model: str) -> ModelSource:
    """Return the source of `model`, with the device, dtype and batch size of `weights`."""
    return dataclasses.replace(self.weights, model=model)


def describe(
  image: str | Path | np.ndarray,
  prompt: str,
  models: Models = Models(),
  *,
  motion: str = '',
  segmentation: np.ndarray | None = None,
  prompts: Mapping[int, str] = {},
  encodings: Sequence[Encoding] = (),
  max_objects: int = MAX_OBJECTS,
  tell: Tell = lambda text: print(text, file=sys.stderr),
) -> Described:
  """Return the masks, prompts and text embeddings that are needed to animate an image.

  Objects that the detector does not find are omitted and reported to `tell`. The training data
  pipeline rejects such clips instead.

  Args:
    image: image file, or uint8 [H, W, 3].
    prompt: caption c of the video.
    models: the models that provide what is not given.
    motion: motion prompt c_motion; by default from the language model, else equal to `prompt`.
    segmentation: label map uint8 [H, W]; by default from the detector and SAM 2.
    prompts: object prompts c_local, by object id; by default from the language model.
    encodings: encodings of the runs that will use the result; see `read_encoding`.
    max_objects: most objects that the language model may name; a run may lower this limit.
    tell: receives progress messages and the names of objects that were not found.

  Raises:
    InputError: if a required part is neither given nor can be provided by a model.
  """
  if segmentation is None or models.llm or any(map(_pretrained, encodings)):
    _need_pytorch()
  notes: list[str] = []
  picture = image if isinstance(image, np.ndarray) else read_image(image, notes)
  for note in notes:
    tell(printable(note))
  names = {obj: name_from(said) for obj, said in prompts.items()}
  given, written = segmentation is not None, not prompts
  # Check the arguments before loading a language model.
  if segmentation is not None:
    check_size(picture, segmentation)
  if segmentation is None and not (models.detector and models.sam):
    raise InputError(
      'give --segmentation MASK.png, or --detector and --sam to have the objects found'
    )
  if segmentation is None and not (models.llm or prompts):
    raise InputError('which objects are there? give --llm, or what each one does by --object')
  if models.llm and not (motion and prompts):
    most = min([max_objects, *(encoding.max_objects for encoding in encodings)])
    tell(f'prompts by {models.llm}')
    asking = Draft('', picture[None], 1.0, prompt, motion, names, dict(prompts))
    said = _prompts(asking, models, most)
    motion, names, prompts = said.motion, said.names, said.prompts
  if segmentation is None:
    segmentation = _found(picture, names, models, tell)
    if written:
      segmentation, names, prompts = _renumbered(segmentation, names, prompts)
  elif written and names:
    labels = _matched(picture, segmentation, names, models, tell)
    names = {label: names[obj] for obj, label in labels.items()}
    prompts = {label: prompts[obj] for obj, label in labels.items()}
  present = set(np.unique(segmentation).tolist()) - {0}
  if given and (unknown := sorted(set(prompts) - present)):
    raise InputError(
      f'object {unknown[0]} has a prompt but no pixel in the mask, which has objects'
      f' {sorted(present)}'
    )
  kept = [obj for obj in prompts if obj in present]
  described = Described(
    picture,
    segmentation,
    prompt,
    motion or prompt,
    {obj: names[obj] for obj in kept},
    {obj: prompts[obj] for obj in kept},
  )
  return dataclasses.replace(described, texts=_embedded(described, encodings, models, tell))


def _need_pytorch() -> None:
  try:
    check_installed()
  except InputError as error:
    raise InputError(
      f'{error}, or describe the picture on a host that has them (python -m data_tools.describe)'
      ' and give the file with --described'
    ) from error


def _pretrained(encoding: Encoding) -> bool:
  """Return whether the encoding uses a pretrained text encoder, not only word ids."""
  return any(name != WORDS for name in encoding.encoders)


def _prompts(draft: Draft, models: Models, most: int) -> Draft:
  """Return the draft with motion prompt, object names and object prompts filled in."""
  (outcome,) = PromptSettings(models.of(models.llm), most, **models.templates).build()([draft])
  _release()
  if isinstance(outcome, Rejected):
    raise InputError(
      f'{outcome.reason} ({outcome.detail}): give --motion and --object yourself, or another --llm'
    )
  return outcome


def _boxes(
  picture: np.ndarray, names: Mapping[int, str], models: Models, tell: Tell
) -> dict[int, np.ndarray]:
  """Return the boxes float [4] of the objects that the detector finds, by object id."""
  tell(f'boxes by {models.detector}')
  nouns = position_words.nouns(names.values())
  detector = GroundingDino(models.of(models.detector), models.threshold)
  found = detector([picture] * len(nouns), nouns)
  del detector
  _release()
  boxes = position_words.assign(names, dict(zip(nouns, found, strict=True)))
  if lost := [name for obj, name in names.items() if obj not in boxes]:
    tell(f'not found: {", ".join(lost)}')
  return boxes


def _found(picture: np.ndarray, names: Mapping[int, str], models: Models, tell: Tell) -> np.ndarray:
  """Return the label map uint8 [H, W] of the named objects.

  Raises:
    InputError: if no object is found.
  """
  boxes = _boxes(picture, names, models, tell)
  if boxes:
    tell(f'masks by {models.sam}')
    track = tracker(models.of(models.sam), models.sam_backend)
    labels = trajectory.from_logits(track(picture[None], np.stack(list(boxes.values()))))[0]
    del track
    _release()
    segmentation = np.array([0, *boxes], np.uint8)[labels]
    if lost := [names[obj] for obj in boxes if not (segmentation == obj).any()]:
      tell(f'without a mask: {", ".join(lost)}')
    if segmentation.any():
      return segmentation
  raise InputError(
    f'none of the objects {", ".join(names.values())} was found in the picture: lower --threshold'
    f' (now {models.threshold:g}), or give --segmentation'
  )


def _renumbered(
  segmentation: np.ndarray, names: Mapping[int, str], prompts: Mapping[int, str]
) -> tuple[np.ndarray, dict[int, str], dict[int, str]]:
  """Renumber the visible objects consecutively from 1, as in training.

  Returns:
    The label map uint8 [H, W], and names and prompts by the new ids.
  """
  kept = [obj for obj in names if (segmentation == obj).any()]
  table = np.zeros(256, np.uint8)
  table[kept] = np.arange(1, len(kept) + 1)
  renamed, reprompted = ({i: old[obj] for i, obj in enumerate(kept, 1)} for old in (names, prompts))
  return table[segmentation], renamed, reprompted


def _matched(
  picture: np.ndarray,
  segmentation: np.ndarray,
  names: Mapping[int, str],
  models: Models,
  tell: Tell,
) -> dict[int, int]:
  """Match named objects to the labels of a given segmentation.

  Returns:
    The label of each object id that has a mask.

  Raises:
    InputError: if there is no detector, unless there is exactly one name and one mask.
  """
  masks = [int(label) for label in np.unique(segmentation) if label]
  if len(masks) == len(names) == 1:
    return {next(iter(names)): masks[0]}
  if not models.detector:
    raise InputError(
      f'the mask has {len(masks)} objects, the language model named {", ".join(names.values())}:'
      ' give --detector to tell which is which, or --object'
    )
  boxes = _boxes(picture, names, models, tell)
  found = masks_of(boxes, segmentation)
  if lost := [names[obj] for obj in boxes if obj not in found]:
    tell(f'in none of the given masks: {", ".join(lost)}')
  return found


def _embedded(
  described: Described, encodings: Sequence[Encoding], models: Models, tell: Tell
) -> dict[str, Embeddings]:
  """Embed all texts that the runs need, with each of their pretrained text encoders.

  Raises:
    InputError: if an encoder cannot be loaded, or two runs use one name for different encoders.
  """
  found = {}
  for name, model in _text_models(encodings).items():
    place = _place(name, model, models)
    tell(f'embeddings by {place}')
    recorded = _Recorded(TransformersText(models.of(place)))
    for encoding in encodings:
      if name in encoding.encoders:
        alone = dataclasses.replace(encoding, encoders={name: encoding.encoders[name]})
        prompts = dict(described.prompts)
        text_arrays(alone, {name: recorded}, described.caption, described.motion, prompts)
    found[name] = Embeddings(name, model, recorded.rows)
    del recorded
    _release()
  return found


def text_encoders(encodings: Sequence[Encoding], models: Models) -> dict[str, TransformersText]:
  """Load the pretrained text encoders of the runs, by name.

  Raises:
    InputError: if an encoder cannot be loaded, or two runs use one name for different encoders.
  """
  return {
    name: TransformersText(models.of(_place(name, model, models)))
    for name, model in _text_models(encodings).items()
  }


def _text_models(encodings: Sequence[Encoding]) -> dict[str, str]:
  """Return the model of each pretrained text encoder of the runs, by encoder name.

  Raises:
    InputError: if two runs use one name for different models.
  """
  wanted: dict[str, str] = {}
  for encoding in encodings:
    for name in encoding.encoders:
      model = encoding.models.get(name, '')
      if name != WORDS and wanted.setdefault(name, model) != model:
        raise InputError(
          f'the runs read {name} by two models, {wanted[name]} and {model}; use each run alone'
        )
  return wanted


def _place(name: str, model: str, models: Models) -> str:
  """Return the folder or hub id of a text encoder; raise InputError if it is not known."""
  place = models.texts.get(name, model)
  if not place:
    raise InputError(
      f'the dataset of a run does not say which model {name} is; give --text {name}=MODEL'
    )
  return place


class _Recorded:
  """A text encoder that records its outputs, by text and length."""

  def __init__(self, encode: TransformersText):
    self._encode = encode
    self.rows: dict[tuple[str, int], tuple[np.ndarray, int]] = {}

  def __call__(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    embeddings, counts = self._encode(texts, length)
    for text, row, count in zip(texts, embeddings, counts, strict=True):
      self.rows[text, length] = row, int(count)
    return embeddings, counts


def _release() -> None:
  """Free GPU memory for the next model and for JAX."""
  import torch

  if torch.cuda.is_available():
    gc.collect()
    torch.cuda.empty_cache()


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    'python -m data_tools.describe',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  cli_args.add_flags(parser)
  parser.add_argument(
    '--run',
    action='append',
    default=[],
    help='run or latents dataset whose text encoders to use; repeat for each stage',
  )
  parser.add_argument('--out', required=True, help='output file, .safetensors')
  args = parser.parse_args(argv)
  with front_door():
    out = Path(args.out)
    if out.suffix != '.safetensors':
      raise InputError(f'--out {out}: give a name that ends in .safetensors')
    if not (args.image and args.prompt):
      raise InputError('give --image, the picture, and --prompt, what the video is to show')
    cli_args.check_flags(args)
    shown = out.with_name(f'{out.stem}_found.png')
    runs = [part for run in args.run for part in outputs.parts_of_run(run)]
    outputs.check(
      '--out', [out, shown], reads={**cli_args.reads(args), '--run': runs}, needed=2**20
    )
    notes: list[str] = []
    mask = trajectory.read_mask(args.segmentation, notes) if args.segmentation else None
    for note in notes:
      print(printable(note), flush=True)
    described = describe(
      args.image,
      args.prompt,
      Models.from_flags(args),
      motion=args.motion or '',
      segmentation=mask,
      prompts=cli_args.parse_objects(args.object),
      encodings=[read_encoding(run) for run in args.run],
    )
    described.save(out)
    try:
      write_bytes(shown, animations.png(described.overlay()))
    except OSError as error:
      raise InputError(f'cannot write {shown} ({error.strerror}); name another place') from error
    print(printable('\n'.join([*described.lines(), str(out), str(shown)])))


if __name__ == '__main__':
  main()
