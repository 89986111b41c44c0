"""Read the HLO text of a compiled program, and count how often each computation runs.

Text, because no library gives the figures: the cost analysis of XLA counts the body of a loop once,
the Python interface of `jaxlib` to HLO modules has no shapes and no attributes, and no package that
JAX depends on has the classes of XLA's protocol buffers.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

_COMPUTATION = re.compile(r'(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .* )?\{$')
# Name, type, opcode, operands and attributes.
_INSTRUCTION = re.compile(
  r'\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*?)\)(?:, (\w[\w\-]*=.*))?$'
)
_SHAPE = re.compile(r'([a-z]\w*)\[([\d,<=]*)\](?:\{([^{}]*)\})?')
_NAME = re.compile(r'%([\w.\-]+)')
_CALLED = re.compile(
  r'(?:calls|to_apply|condition|body|true_computation|false_computation)=(%[\w.\-]+)'
  r'|branch_computations=\{([^}]*)\}'
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"?(\d+)')

# Memory space of on-chip (vector) memory in HLO layouts.
ON_CHIP = 1


@dataclasses.dataclass(frozen=True)
class Shape:
  """The shape of one array.

  Attributes:
    dtype: element type in HLO notation, such as 'bf16'.
    sizes: the dimensions.
    space: memory space; 0 is device memory, see also ON_CHIP.
  """

  dtype: str
  sizes: tuple[int, ...]
  space: int = 0

  @property
  def bytes(self) -> float:
    """Size in bytes; 0 for tokens and other types without a width."""
    width = re.search(r'\d+', self.dtype)
    bits = 8 if self.dtype == 'pred' else int(width[0]) if width else 0
    return math.prod(self.sizes) * bits / 8


@dataclasses.dataclass(frozen=True, eq=False)
class Instruction:
  """One line of a computation.

  Attributes:
    name: name of the result.
    opcode: HLO opcode, such as 'dot'.
    shapes: shapes of the result; several for a tuple.
    operands: instructions of the same computation.
    called: computations that it calls, in the order of the text; for `while` condition and body.
    inside: the text in parentheses.
    attributes: the text after the parentheses.
  """

  name: str
  opcode: str
  shapes: tuple[Shape, ...]
  operands: 'tuple[Instruction, ...]' = dataclasses.field(repr=False)
  called: 'tuple[Computation, ...]' = dataclasses.field(repr=False)
  inside: str
  attributes: str

  @property
  def bytes(self) -> float:
    """Size of the result in bytes."""
    return sum(shape.bytes for shape in self.shapes)

  def attribute(self, name: str) -> str:
    """Return the value of the attribute `name=...`, or '' if there is none.

    Values must not contain nested braces, or spaces outside of braces.
    """
    found = re.search(rf'[, ]{name}=(\{{[^{{}}]*\}}|[^ ,]*)', f' {self.attributes}')
    return found[1] if found else ''

  @property
  def trips(self) -> int:
    """The trip count of a `while` instruction.

    From the annotation of the compiler, else from the start, bound and step of the loop counter; 1
    if these are not constants.
    """
    if annotated := _TRIPS.search(self.attributes):
      return int(annotated[1])
    condition, body = self.called
    compared = condition.root
    # The operands of a fusion are those of the comparison in it.
    inner = compared.called[0].root if compared.opcode == 'fusion' else compared
    counter = next((x for x in compared.operands if x.opcode == 'get-tuple-element'), None)
    if counter is None or inner.attribute('direction') not in ('LT', 'GT'):
      return 1
    index = int(counter.attribute('index'))
    bound = _constant(*compared.operands)
    begin = _constant(_element(self.operands[0], index))
    added = _element(body.root, index)
    step = _constant(*added.operands) if 'add' in added.name else None
    if bound is None or begin is None or not step:
      return 1
    return max(-(-(bound - begin) // step), 0)


@dataclasses.dataclass(eq=False)
class Computation:
  """One HLO computation.

  Attributes:
    name: its name.
    instructions: instructions by name, in program order.
    root: the instruction whose result is that of the computation.
  """

  name: str
  instructions: dict[str, Instruction] = dataclasses.field(default_factory=dict, repr=False)
  root: Instruction = dataclasses.field(init=False, repr=False)


@dataclasses.dataclass(frozen=True)
class Program:
  """An HLO module.

  Attributes:
    computations: computations by name; a computation comes after those that it calls.
    entry: the entry computation.
  """

  computations: dict[str, Computation]
  entry: Computation

  def visits(self) -> Iterator[tuple[Computation, float, bool]]:
    """Yield (computation, executions, fused) for each call site.

    `executions` is a number; `fused` says whether the computation is part of a fusion.
    """
    pending = [(self.entry, 1.0, False)]
    while pending:
      computation, times, fused = pending.pop()
      yield computation, times, fused
      for x in computation.instructions.values():
        if x.opcode == 'while':
          condition, body = x.called
          pending += [(body, times * x.trips, fused), (condition, times * (x.trips + 1), fused)]
        elif x.opcode in ('conditional', 'fusion', 'call', 'async-start'):
          pending += [(callee, times, fused or x.opcode == 'fusion') for callee in x.called]


def _element(x: Instruction, index: int) -> Instruction:
  """Return the instruction behind an element of a tuple, without copies."""
  x = x.operands[index] if x.opcode == 'tuple' else x
  while x.opcode in ('copy', 'bitcast', 'convert'):
    (x,) = x.operands
  return x


def _constant(*found: Instruction) -> int | None:
  """Return the first integer constant among instructions, without copies; None if there is none."""
  texts = [y.inside for y in (_element(x, 0) for x in found) if y.opcode == 'constant']
  return next((int(text) for text in texts if text.lstrip('-').isdecimal()), None)


def parse(text: str) -> Program:
  """Parse the HLO text of a compiled program, such as the result of `Compiled.as_text()`."""
  computations: dict[str, Computation] = {}
  for line in text.splitlines():
    if head := _COMPUTATION.match(line):
      current = computations[head[2]] = Computation(head[2])
      if head[1]:
        entry = current
    elif match := _INSTRUCTION.match(line):
      root, name, kind, opcode, inside, attributes = match.groups('')
      known = current.instructions
      found = Instruction(
        name,
        opcode,
        shapes(kind),
        tuple(known[n] for n in _NAME.findall(inside) if n in known),
        tuple(
          computations[n]
          for one, several in _CALLED.findall(attributes)
          for n in _NAME.findall(one or several)
        ),
        inside,
        attributes,
      )
      known[name] = found
      if root:
        current.root = found
  return Program(computations, entry)


def shapes(text: str) -> tuple[Shape, ...]:
  """Parse the shapes of an HLO type; tuples are flattened."""
  found = []
  for dtype, sizes, layout in _SHAPE.findall(text):
    space = re.search(r'S\((\d+)\)', layout)
    dims = tuple(int(size.lstrip('<=')) for size in sizes.split(',') if size)
    found.append(Shape(dtype, dims, int(space[1]) if space else 0))
  return tuple(found)
