"""Parse the HLO text of a compiled program, and count how often each computation runs.

The cost analysis of XLA counts the body of a loop once. Here each visit of a computation carries
its number of executions, derived from the loop trip counts.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

# Bits of an element.
_BITS = {
  'pred': 8, 's4': 4, 'u4': 4, 's8': 8, 'u8': 8, 's16': 16, 'u16': 16, 's32': 32, 'u32': 32,
  's64': 64, 'u64': 64, 'f16': 16, 'bf16': 16, 'f32': 32, 'f64': 64, 'c64': 64, 'c128': 128,
}  # fmt: skip

_SHAPE = re.compile(r'([a-z]+[0-9]*[a-z0-9]*)\[([\d,<=]*)\](?:\{([^{}]*)\})?')
_HEAD = re.compile(r'^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .* )?\{$')
_CALLS = re.compile(r'(?:calls|body|condition|to_apply|async_execution_thread)=%?([\w.\-]+)')
_BRANCHES = re.compile(
  r'(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+))'
)
_TRIPS = re.compile(r'known_trip_count"?\s*[:=]\s*\{\s*"?n"?\s*:\s*"?(\d+)')

# Memory spaces in HLO layouts: on-chip (vector) memory and host memory.
ON_CHIP, ON_HOST = 1, 5


@dataclasses.dataclass(frozen=True)
class Shape:
  """The shape of one array.

  Attributes:
    dtype: element type in HLO notation, such as 'bf16'.
    sizes: the dimensions.
    space: memory space; 0 is device memory, see also ON_CHIP and ON_HOST.
  """

  dtype: str
  sizes: tuple[int, ...]
  space: int = 0

  @property
  def elements(self) -> int:
    """Number of elements."""
    return math.prod(self.sizes)

  @property
  def bytes(self) -> float:
    """Size in bytes; 0 for unknown element types."""
    return self.elements * _BITS.get(self.dtype, 0) / 8


@dataclasses.dataclass
class Instruction:
  """One line of a computation.

  Attributes:
    name: name of the result.
    opcode: HLO opcode, such as 'dot'.
    shapes: shapes of the result; several for a tuple.
    operands: names of instructions of the same computation.
    attributes: the unparsed text after the operands; for constants and parameters the text in
      parentheses.
    is_root: whether the result is that of the computation.
  """

  name: str
  opcode: str
  shapes: tuple[Shape, ...]
  operands: tuple[str, ...]
  attributes: str
  is_root: bool

  @property
  def bytes(self) -> float:
    """Size of the result in bytes."""
    return sum(shape.bytes for shape in self.shapes)

  def attribute(self, name: str) -> str:
    """Return the value of the attribute `name=...`, or '' if there is none.

    Values must not contain nested braces, or spaces outside of braces.
    """
    found = re.search(rf'[, ]{name}=(\{{[^{{}}]*\}}|[^ ,]*)', f' {self.attributes}')
    return found.group(1) if found else ''


@dataclasses.dataclass
class Computation:
  """One HLO computation.

  Attributes:
    name: its name.
    instructions: instructions by name, in program order.
  """

  name: str
  instructions: dict[str, Instruction] = dataclasses.field(default_factory=dict)

  def operands(self, instruction: Instruction) -> list[Instruction]:
    """Return the instructions that are operands of an instruction."""
    return [self.instructions[n] for n in instruction.operands if n in self.instructions]

  @property
  def root(self) -> Instruction:
    """The instruction whose result is that of the computation."""
    return next(i for i in reversed(self.instructions.values()) if i.is_root)


@dataclasses.dataclass(frozen=True)
class Program:
  """An HLO module.

  Attributes:
    computations: computations by name.
    entry: name of the entry computation.
  """

  computations: dict[str, Computation]
  entry: str

  def visits(self) -> Iterator[tuple[Computation, float, bool]]:
    """Yield (computation, executions, fused) for each call site.

    `executions` is a number; `fused` says whether the computation is part of a fusion.
    """
    pending: list[tuple[str, float, bool]] = [(self.entry, 1.0, False)]
    while pending:
      name, times, fused = pending.pop()
      computation = self.computations[name]
      yield computation, times, fused
      for instruction in computation.instructions.values():
        for callee, trips, inside in self._called(instruction, computation):
          pending.append((callee, times * trips, fused or inside))

  def _called(
    self, instruction: Instruction, computation: Computation
  ) -> Iterator[tuple[str, float, bool]]:
    if instruction.opcode == 'while':
      trips = self.trips(instruction, computation)
      yield instruction.attribute('body').lstrip('%'), trips, False
      yield instruction.attribute('condition').lstrip('%'), trips + 1, False
    elif instruction.opcode == 'conditional':
      names = [n for pair in _BRANCHES.findall(instruction.attributes) for n in pair if n]
      for branch in ', '.join(names).split(', '):
        yield branch.strip().lstrip('%'), 1.0, False
    elif instruction.opcode in ('fusion', 'call', 'async-start'):
      callee = instruction.attribute('calls') or instruction.attribute('to_apply')
      yield callee.lstrip('%'), 1.0, instruction.opcode == 'fusion'

  def trips(self, loop: Instruction, around: Computation) -> int:
    """Return the trip count of a loop.

    Uses the `known_trip_count` annotation, else the start, bound and step of the loop counter.
    Returns 1 if these are not constants.

    Args:
      loop: the `while` instruction.
      around: the computation that contains the loop.
    """
    noted = _TRIPS.search(loop.attributes)
    if noted:
      return int(noted.group(1))
    condition = self.computations[loop.attribute('condition').lstrip('%')]
    body = self.computations[loop.attribute('body').lstrip('%')]
    compared = condition.root
    if compared.opcode == 'fusion':
      # The operands of the fusion are those of the comparison in it.
      inner = self.computations[compared.attribute('calls').lstrip('%')].root
      if inner.opcode != 'compare':
        return 1
      compared = dataclasses.replace(compared, attributes=inner.attributes)
    operands = condition.operands(compared)
    counter = next((o for o in operands if o.opcode == 'get-tuple-element'), None)
    bound = next((_number(o) for o in operands if o.opcode == 'constant'), None)
    if counter is None or bound is None or compared.attribute('direction') not in ('LT', 'GT'):
      return 1
    index = int(counter.attribute('index'))
    begin = _constant(around, _element(around, loop.operands[0], index))
    step = _step(body, index)
    if begin is None or not step:
      return 1
    return max(-(-(bound - begin) // step), 0)


def _element(computation: Computation, name: str, index: int) -> str:
  made = computation.instructions[name]
  return made.operands[index] if made.opcode == 'tuple' else name


def _constant(computation: Computation, name: str) -> int | None:
  """Return the integer constant behind an instruction, through copies; None if it is unknown."""
  found = computation.instructions.get(name)
  while found is not None and found.opcode in ('copy', 'bitcast', 'convert'):
    found = computation.instructions.get(found.operands[0])
  return None if found is None else _number(found)


def _number(instruction: Instruction) -> int | None:
  text = instruction.attributes
  return int(text) if instruction.opcode == 'constant' and text.lstrip('-').isdecimal() else None


def _step(body: Computation, index: int) -> int | None:
  """Return the increment of the loop counter per trip; None if it is unknown."""
  added = body.instructions.get(_element(body, body.root.name, index))
  while added is not None and added.opcode in ('copy', 'bitcast'):
    added = body.instructions.get(added.operands[0])
  if added is None:
    return None
  numbers = [_constant(body, name) for name in added.operands]
  return next((n for n in numbers if n is not None), None) if 'add' in added.name else None


def parse(text: str) -> Program:
  """Parse HLO text: the result of `Compiled.as_text()`, or a lowered program as HLO text."""
  computations: dict[str, Computation] = {}
  entry, current = '', None
  for line in text.splitlines():
    if current is None:
      head = _HEAD.match(line)
      if head:
        current = computations.setdefault(head.group(2), Computation(head.group(2)))
        entry = head.group(2) if head.group(1) else entry
    elif line.startswith('}'):
      current = None
    else:
      instruction = _instruction(line)
      if instruction is not None:
        current.instructions[instruction.name] = instruction
  return Program(computations, entry)


def _instruction(line: str) -> Instruction | None:
  left, equals, right = line.strip().partition(' = ')
  if not equals:
    return None
  is_root = left.startswith('ROOT ')
  name = left.removeprefix('ROOT ').lstrip('%')
  end = _closing(right, 0) + 1 if right.startswith('(') else right.find(' ')
  kind, rest = right[:end], right[end:].lstrip()
  opcode, paren, _ = rest.partition('(')
  if not paren:
    return None
  close = _closing(rest, len(opcode))
  inside, attributes = rest[len(opcode) + 1 : close], rest[close + 1 :]
  if opcode == 'constant':
    return Instruction(name, opcode, shapes(kind), (), inside, is_root)
  if opcode == 'parameter':
    return Instruction(name, opcode, shapes(kind), (), inside, is_root)
  operands = tuple(part.split()[-1].lstrip('%') for part in _split(inside))
  return Instruction(name, opcode, shapes(kind), operands, attributes.lstrip(', '), is_root)


def shapes(text: str) -> tuple[Shape, ...]:
  """Parse the shapes of an HLO type; tuples are flattened."""
  found = []
  for dtype, sizes, layout in _SHAPE.findall(text):
    space = re.search(r'S\((\d+)\)', layout)
    dims = tuple(int(size.lstrip('<=')) for size in sizes.split(',') if size)
    found.append(Shape(dtype, dims, int(space.group(1)) if space else 0))
  return tuple(found)


def _closing(text: str, start: int) -> int:
  """Return the index of the parenthesis that closes the one at `start`."""
  depth = 0
  for match in re.compile(r'[()]').finditer(text, start):
    depth += 1 if match.group() == '(' else -1
    if not depth:
      return match.start()
  return len(text)


def _split(text: str) -> list[str]:
  """Split a text at commas outside of brackets."""
  parts, depth, begin = [], 0, 0
  for i, char in enumerate(text):
    if char in '([{':
      depth += 1
    elif char in ')]}':
      depth -= 1
    elif char == ',' and not depth:
      parts.append(text[begin:i])
      begin = i + 1
  parts.append(text[begin:])
  return [part.strip() for part in parts if part.strip()]
