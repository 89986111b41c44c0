"""Write safetensors files with the usual permissions and errors."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy


def save_tensors(
  path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] = {}
) -> None:
  """Write arrays of any shapes and dtypes to a safetensors file, replacing what is at `path`.

  Raises:
    OSError: if the file cannot be written.
  """
  path = Path(path)
  # The library ignores strides and writes raw memory: a transposed view would be read back wrong.
  arrays = {name: np.asarray(array, order='C') for name, array in tensors.items()}
  path.touch()
  mode = path.stat().st_mode
  try:
    safetensors.numpy.save_file(arrays, path, dict(metadata) or None)
  except safetensors.SafetensorError as error:
    raise OSError(errno.EIO, str(error), str(path)) from error
  path.chmod(mode)  # The library makes files that only their owner can read.
