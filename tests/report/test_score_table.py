"""The table of scores in Markdown and CSV, its notes, and the rows of the paper."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest

from tests.helpers.scored import Brightness, Spread
from ttm_jax.metrics.agreement import About
from ttm_jax.metrics.registry import METRICS
from ttm_jax.metrics.scoring import Measured, summarize
from ttm_jax.metrics.votes import QUESTIONS
from ttm_jax.report.paper import TABLES, paper_tables
from ttm_jax.report.score_table import FEW, as_csv, markdown, score_table

ABOUT = About('data/clips', 'validation', (16, 64, 64), 8.0, ['VIDEOS: something deviates'])


def measured(name, values, seeds=(0,)):
  rows = np.stack([np.array(values, float)] * len(seeds))[..., None]
  keys = tuple(str(i) for i in range(rows.shape[1]))
  return Measured(name, keys, seeds, {'brightness': rows, 'spread': np.repeat(rows, 2, -1)})


@pytest.fixture(scope='module')
def compared():
  ours = measured('ours', [10.5, 11, 12.5, 14], seeds=(0, 1))
  return summarize([Brightness(), Spread()], [ours], measured('a|b', [30, 31, 32.5, 35]))


def test_cells_and_notes(compared):
  table = score_table(compared, ABOUT)
  assert table.columns == ['', 'ours', 'a|b', 'difference']
  (name, cells), (spread, others) = table.rows
  assert name == 'brightness (levels) ↓' and spread == 'spread ↑'
  number = compared.numbers[0]['brightness']
  assert cells[0].text == f'12.0 [{number.low:.1f}, {number.high:.1f}]'
  assert cells[0].bold and not cells[1].bold and cells[2].bold
  assert cells[2].text.startswith('-20.1 [-21.')
  # `spread` needs 100 clips; its interval of the difference contains 0.
  assert [cell.text.endswith(FEW) for cell in others] == [True, True, False]
  assert not any(cell.bold for cell in others)
  assert table.notes == [
    '4 clips of data/clips, split validation; 2 seeds of ours, 1 seed of a|b; 16 frames of 64x64'
    ' pixels at 8 per second.',
    '[low, high]: 95% bootstrap interval over clips, 1000 draws.',
    'Difference: ours less a|b. Bold: better, where its interval excludes 0.',
    'brightness (levels): mean difference of the last frame.',
    'spread: standard deviation of the mean gray.',
    f'{FEW} spread: 4 clips, fewer than the 100 that give a meaningful number.',
    'VIDEOS: something deviates.',
  ]
  mixed = score_table(compared, dataclasses.replace(ABOUT, fps=None))
  assert 'pixels of several frame rates.' in mixed.notes[0]


def test_markdown(compared):
  lines = markdown(score_table(compared, ABOUT)).splitlines()
  assert lines[0] == '|  | ours | a\\|b | difference |'
  assert lines[1] == '|---|---|---|---|'
  assert lines[2].startswith('| brightness (levels) ↓ | **12.0 [') and ']** | 32.1 [' in lines[2]
  assert '- VIDEOS: something deviates.' in lines and '## In the paper' not in lines


def test_csv(compared):
  rows = list(csv.DictReader(io.StringIO(as_csv(compared))))
  assert [(row['metric'], row['system'], row['less']) for row in rows] == [
    ('brightness', 'ours', ''),
    ('brightness', 'a|b', ''),
    ('brightness', 'ours', 'a|b'),
    ('spread', 'ours', ''),
    ('spread', 'a|b', ''),
    ('spread', 'ours', 'a|b'),
  ]
  assert float(rows[0]['value']) == 12.0 and float(rows[2]['value']) == -20.125
  assert (rows[0]['clips'], rows[0]['seeds'], rows[3]['few']) == ('4', '2', '1')


def test_values_without_an_interval():
  one = measured('one', [0.01234])
  nothing = measured('nothing', [np.nan])
  table = score_table(summarize([Brightness()], [one, nothing]), ABOUT)
  assert [cell.text for cell in table.rows[0][1]] == [f'0.0123 {FEW}', f'– {FEW}']  # noqa: RUF001
  assert ',,' in as_csv(summarize([Brightness()], [nothing]))


def test_the_paper():
  tables = paper_tables(['psnr', 'viclip_video', 'fvd'])
  assert [table.caption for table in tables] == [
    'Table 1: SA-V-128, single object, 64 videos',
    'Table 1: SA-V-128, multiple objects, 64 videos',
    'Table 2: Image-Animation-Bench, 2500 videos',
    'Table 3: SA-V-128, U-Net, 128 videos',
    'Table 3: SA-V-128, DiT, 128 videos',
    'Table 4: SA-V-128, U-Net, 128 videos',
  ]
  assert tables[0].columns == ['fvd', 'viclip_video']
  assert dict(tables[0].rows)['TTM (U-Net)'] == ['925.39', '0.888']
  assert dict(tables[3].rows)['both (TTM)'] == ['648.59', '0.892']
  assert dict(tables[4].rows)['TI2V'] == ['1199.86', '0.802']
  assert dict(tables[2].rows)['TTM (DiT)'] == ['192.45', '0.847']
  assert paper_tables(['psnr']) == []
  # Raters compared others with the method: it has no percentage itself.
  rows = dict(paper_tables(['prefer_motion'])[0].rows)
  assert rows['Motion-I2V'] == ['89.0'] and 'TTM (DiT)' not in rows
  named = dataclasses.replace(Brightness(), name='fvd', title='FVD')
  fvd = Measured('ours', ('a', 'b'), (0,), {'fvd': np.ones((1, 2, 1))})
  text = markdown(score_table(summarize([named], [fvd]), ABOUT))
  assert '## In the paper' in text and '| TTM (U-Net) | 196.23 |' in text


def test_the_columns_of_the_paper_are_metrics():
  columns = json.loads(TABLES.read_text())['columns']
  named = [name for name in columns if not name.startswith('prefer_')]
  assert len(named) == 5 and set(named) <= set(METRICS)
  assert [name.removeprefix('prefer_') for name in columns[5:]] == list(QUESTIONS)
