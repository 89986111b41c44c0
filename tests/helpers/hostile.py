"""Change the files of a dataset, and see how commands end on it."""

import json
import resource
import sys

import pytest

from ttm_jax.data import clips, records
from ttm_jax.data.schema import VERSION
from ttm_jax.errors import InputError
from ttm_jax.scenes import generator as scenes

MIB = 2**20
SCENES = scenes.SceneConfig(size=(16, 16), frames=4, min_objects=2, max_objects=2)


def change(path, **values):
  """Change fields of a JSON file."""
  path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_split(folder, **values):
  info = json.loads((folder / 'dataset_info.json').read_text())
  info['splits'][0] |= values
  (folder / 'dataset_info.json').write_text(json.dumps(info))


def change_feature(folder, name, feature):
  features = json.loads((folder / 'features.json').read_text())
  features['featuresDict']['features'][name] = feature
  (folder / 'features.json').write_text(json.dumps(features))


def fails(capsys, monkeypatch, door, *arguments):
  """Return the error message with which a command ends."""
  monkeypatch.setattr(sys, 'argv', ['door', *map(str, arguments)])
  with pytest.raises((SystemExit, InputError)) as stopped:
    door.main()
  if isinstance(stopped.value, InputError):  # The text that `front_door` prints.
    return str(stopped.value)
  assert stopped.value.code == 2
  return capsys.readouterr().err


def peak():
  """Return the peak memory of this process in bytes."""
  return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def record_of(dataset, **values):
  """Write a dataset of one clip with changed fields."""
  clip = clips.encode_clip(scenes.scene(SCENES, 0)) | values
  place = dataset.with_name('bomb')
  records.write(place, clips.NAME, VERSION, clips.FEATURES, {'train': [('a', clip)]})
  return place
