"""The parser that every command with `argparse` begins with; imports nothing heavy."""

import argparse


def command_parser(module: str, description: str | None) -> argparse.ArgumentParser:
  """Return a parser without flags.

  Args:
    module: name of the module, as in `python -m MODULE`.
    description: its docstring, which `--help` shows as it stands.
  """
  return argparse.ArgumentParser(
    f'python -m {module}',
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
