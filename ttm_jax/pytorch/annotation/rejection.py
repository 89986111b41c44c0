"""The exception for data that a model cannot annotate: a caption, an answer, a clip."""


class Reject(Exception):
  """Raised if a caption, an answer of a model or a clip cannot be used.

  Attributes:
    reason: short reason, without details of this case; reports count cases by reason.
    detail: details of this case.
  """

  def __init__(self, reason: str, detail: str = ''):
    super().__init__(f'{reason} ({detail})' if detail else reason)
    self.reason, self.detail = reason, detail
