"""Check captions, prepare them for a prompt template, and derive object names from prompts."""

import unicodedata

from ttm_jax.pytorch.annotation.rejection import Reject

MAX_CAPTION_WORDS = 400  # Text encoders truncate earlier; longer texts are not captions.
MAX_CAPTION_CHARACTERS = 8000

_LITTLE_WORDS = {'a', 'an', 'and', 'at', 'in', 'of', 'on', 'that', 'the', 'to', 'with'}


def check_caption(caption: str) -> None:
  """Raise Reject if the caption is empty or longer than `MAX_CAPTION_WORDS`."""
  if not caption.strip():
    raise Reject('no caption')
  if (words := len(caption.split())) > MAX_CAPTION_WORDS:
    raise Reject(f'caption of more than {MAX_CAPTION_WORDS} words', f'{words} words')


def check_for_language_model(caption: str) -> None:
  """Raise Reject if a language model cannot derive prompts from the caption."""
  check_caption(caption)
  if not any(c.isalnum() for c in caption):
    raise Reject('no words in the caption', repr(caption[:80]))
  # The limit on words does not apply to scripts without spaces, or to text without words.
  if len(caption) > MAX_CAPTION_CHARACTERS:
    raise Reject(f'caption of more than {MAX_CAPTION_CHARACTERS} characters')


def for_slot(caption: str) -> str:
  """Sanitize a caption for a template: one line, without square brackets or braces.

  Brackets could be mistaken for an answer and become parentheses. Control characters and lone
  surrogates, which tokenizers do not accept, become spaces.
  """
  text = ''.join(' ' if unicodedata.category(c) in ('Cc', 'Cs') else c for c in caption)
  return ' '.join(text.translate(str.maketrans('[]{}', '()()')).split())


def name_from(prompt: str) -> str:
  """Derive the name of an object from its prompt: 'a man in jeans runs' gives 'man in jeans'.

  Take the first three words after the article, without trailing prepositions and articles. The
  result may include a verb. If the name is used for detection, give `names` instead.
  """
  words = prompt.rstrip('.').split() or prompt.split() or ['']
  words = words[1:] if words[0].lower() in ('a', 'an', 'the') and len(words) > 1 else words
  name = words[:3]
  while len(name) > 1 and name[-1].lower() in _LITTLE_WORDS:
    name.pop()
  return ' '.join(name)
