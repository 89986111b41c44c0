"""Compiler options by platform."""

import jax
import pytest

from ttm_jax.parallel import compiler


def test_a_program_is_the_same():
  for options in ({}, {'gather': True}, {'once': True}):
    assert compiler.jit(lambda x: x + 1, **options)(1) == 2


@pytest.mark.parametrize(
  'platform, options, told',
  [
    ('tpu', {'gather': True}, compiler.GATHER),
    ('tpu', {'once': True}, None),
    ('cpu', {'gather': True}, None),
    ('cpu', {'once': True}, compiler.QUICK),
    ('gpu', {'gather': True, 'once': True}, compiler.GPU),
  ],
)
def test_each_compiler_is_told_what_it_understands(monkeypatch, platform, options, told):
  monkeypatch.setattr(compiler, 'platform', lambda: platform)
  monkeypatch.setattr(jax, 'jit', lambda function, **given: given)
  given = compiler.jit(print, donate_argnums=0, **options)
  assert given == {'compiler_options': told, 'donate_argnums': 0}
