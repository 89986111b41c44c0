"""Find what is needed to animate an image: its objects, their masks and the motion prompts.

A given segmentation, motion prompt or object prompt is kept; pretrained models provide the rest.
Texts are embedded by `inference.pretrained_texts`.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ttm_jax import trajectory
from ttm_jax.errors import InputError, printable
from ttm_jax.inference import position_words
from ttm_jax.inference.image_description import Described
from ttm_jax.media.images import read_image
from ttm_jax.media.label_images import check_size
from ttm_jax.pytorch.annotation import answers
from ttm_jax.pytorch.annotation.box_matching import masks_of
from ttm_jax.pytorch.annotation.flags import templates_of
from ttm_jax.pytorch.annotation.grounding_dino import THRESHOLD, GroundingDino
from ttm_jax.pytorch.annotation.language_model import LanguageModel, Questions
from ttm_jax.pytorch.annotation.model_source import ModelSource, check_installed, free_gpu_memory
from ttm_jax.pytorch.annotation.rejection import Reject
from ttm_jax.pytorch.annotation.sam2 import tracker
from ttm_jax.pytorch.annotation.texts import check_for_language_model, name_from

Tell = Callable[[str], None]


def to_stderr(text: str) -> None:
  """Print a progress message."""
  print(text, file=sys.stderr)


@dataclasses.dataclass(frozen=True)
class Models:
  """The models that provide the missing parts of a description.

  Each model is a folder or a Hugging Face hub id; empty means none.

  Attributes:
    llm: language model for the motion prompt, object names and object prompts.
    detector: Grounding DINO.
    sam: SAM 2.
    sam_backend: a name of `sam2.BACKENDS`, or `auto`.
    threshold: minimum score of a box.
    templates: replacement files of the templates, as arguments of `language_model.Questions`.
    weights: device, dtype, batch size and offline flag; its `model` is ignored.
  """

  llm: str = ''
  detector: str = ''
  sam: str = ''
  sam_backend: str = 'auto'
  threshold: float = THRESHOLD
  templates: Mapping[str, str] = dataclasses.field(default_factory=dict)
  weights: ModelSource = dataclasses.field(default_factory=lambda: ModelSource(''))

  @classmethod
  def from_flags(cls, args: argparse.Namespace) -> 'Models':
    """Build from the parsed flags of `inference.cli_args.add_flags`."""
    return cls(
      llm=args.llm or '',
      detector=args.detector or '',
      sam=args.sam or '',
      sam_backend=args.sam_backend,
      threshold=args.threshold,
      templates=templates_of(args),
      weights=ModelSource.from_flags(args),
    )


def describe(
  image: str | Path | np.ndarray,
  prompt: str,
  models: Models = Models(),
  *,
  motion: str = '',
  segmentation: np.ndarray | None = None,
  prompts: Mapping[int, str] = {},
  max_objects: int = trajectory.MAX_OBJECTS,
  tell: Tell = to_stderr,
) -> Described:
  """Return the masks and prompts that are needed to animate an image.

  Objects that the detector does not find are omitted and reported to `tell`. The training data
  pipeline rejects such clips instead.

  Args:
    image: image file, or uint8 [H, W, 3].
    prompt: caption c of the video.
    models: the models that provide what is not given.
    motion: motion prompt c_motion; by default from the language model, else equal to `prompt`.
    segmentation: label map uint8 [H, W]; by default from the detector and SAM 2.
    prompts: object prompts c_local, by object id; by default from the language model.
    max_objects: most objects that the language model may name.
    tell: receives progress messages and the names of objects that were not found.

  Raises:
    InputError: if a required part is neither given nor can be provided by a model.
  """
  if segmentation is None or models.llm:
    check_host()
  notes: list[str] = []
  picture = image if isinstance(image, np.ndarray) else read_image(image, notes)
  for note in notes:
    tell(printable(note))
  names: Mapping[int, str] = {obj: name_from(said) for obj, said in prompts.items()}
  numbered = bool(prompts)  # The user numbered the objects.
  # Check the arguments before loading a language model.
  if segmentation is not None:
    check_size(picture, segmentation)
    present = sorted(set(np.unique(segmentation).tolist()) - {0})
    if unknown := sorted({*prompts} - {*present}):
      raise InputError(
        f'object {unknown[0]} has a prompt, but no pixel in the mask, which has objects {present};'
        ' give the prompt of one of them'
      )
  elif not (models.detector and models.sam):
    raise InputError('no segmentation: give --segmentation MASK.png, or --detector and --sam')
  elif not (models.llm or prompts):
    raise InputError(
      'no object is named: give --llm to find the objects of the prompt, or an --object for each'
    )
  elif wrong := [obj for obj in prompts if not 1 <= obj <= trajectory.MAX_OBJECTS]:
    raise InputError(f'--object {wrong[0]}: number the objects from 1 to {trajectory.MAX_OBJECTS}')
  if models.llm and not (motion and prompts):
    tell(f'prompts by {models.llm}')
    motion, names, prompts = _ask(prompt, motion, names, prompts, models, max_objects)
    free_gpu_memory()
  if segmentation is None:
    found = _find(picture, names, models, tell)
    visible = [obj for obj in names if (found == obj).any()]
    # Objects of the language model are numbered as in training: from 1, without gaps.
    labels = {obj: obj if numbered else number for number, obj in enumerate(visible, 1)}
    segmentation = trajectory.relabel(found, labels)
  elif numbered or not names:
    labels = {obj: obj for obj in prompts}
  else:
    labels = _match(picture, segmentation, names, models, tell)
  named, prompted = ({labels[obj]: texts[obj] for obj in labels} for texts in (names, prompts))
  return Described(picture, segmentation, prompt, motion or prompt, named, prompted)


def check_host() -> None:
  """Raise InputError if the models cannot run on this host, with what to do instead."""
  try:
    check_installed()
  except InputError as error:
    raise InputError(
      f'{error}, or describe the picture on a host that has them (python -m data_tools.describe)'
      ' and give the file with --described'
    ) from error


def _ask(
  caption: str,
  motion: str,
  names: Mapping[int, str],
  prompts: Mapping[int, str],
  models: Models,
  max_objects: int,
) -> tuple[str, Mapping[int, str], Mapping[int, str]]:
  """Return motion prompt, object names and object prompts; the language model fills in the empty.

  Raises:
    InputError: if an answer cannot be used.
  """
  questions = Questions(LanguageModel(models.weights.of(models.llm)), **models.templates)
  try:
    check_for_language_model(caption)
    motion = motion or answers.parse_motion(questions.motion([caption])[caption])
    if not prompts:
      listed = answers.parse_objects(questions.objects([caption])[caption], max_objects)
      names, prompts = (dict(enumerate(texts, 1)) for texts in listed)
  except Reject as reject:
    raise InputError(f'{reject}: give --motion and --object yourself, or another --llm') from reject
  return motion, names, prompts


def _detect(
  picture: np.ndarray, names: Mapping[int, str], models: Models, tell: Tell
) -> dict[int, np.ndarray]:
  """Return the boxes float [4] of the objects that the detector finds, by object id."""
  tell(f'boxes by {models.detector}')
  nouns = position_words.nouns(names.values())
  detector = GroundingDino(models.weights.of(models.detector), models.threshold)
  found = detector([picture] * len(nouns), nouns)
  del detector
  free_gpu_memory()
  boxes = position_words.assign(names, dict(zip(nouns, found, strict=True)))
  if lost := [name for obj, name in names.items() if obj not in boxes]:
    tell(f'not found: {", ".join(lost)}')
  return boxes


def _find(picture: np.ndarray, names: Mapping[int, str], models: Models, tell: Tell) -> np.ndarray:
  """Return the label map uint8 [H, W] of the named objects, whose labels are their ids.

  Raises:
    InputError: if no object is found.
  """
  boxes = _detect(picture, names, models, tell)
  if boxes:
    tell(f'masks by {models.sam}')
    track = tracker(models.weights.of(models.sam), models.sam_backend)
    labels = trajectory.from_logits(track(picture[None], np.stack(list(boxes.values()))))[0]
    del track
    free_gpu_memory()
    found = trajectory.relabel(labels, dict(enumerate(boxes, 1)))
    if lost := [names[obj] for obj in boxes if not (found == obj).any()]:
      tell(f'without a mask: {", ".join(lost)}')
    if found.any():
      return found
  raise InputError(
    f'none of the objects {", ".join(names.values())} was found in the picture: lower --threshold'
    f' (now {models.threshold:g}), or give --segmentation'
  )


def _match(
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
      ' give --detector to match them, or --object for each mask'
    )
  boxes = _detect(picture, names, models, tell)
  found = masks_of(boxes, segmentation)
  if lost := [names[obj] for obj in boxes if obj not in found]:
    tell(f'in none of the given masks: {", ".join(lost)}')
  return found
