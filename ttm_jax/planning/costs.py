"""Count the FLOPs, memory traffic and communication of a compiled program on one device.

The counts come from the HLO text of the program (see `hlo`) and include loop trip counts. Custom
kernels count by their own cost estimates. The kernels of object attention state the cost of all
token pairs, because the number of skipped blocks is known only at run time.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ttm_jax.planning.flops import meetings
from ttm_jax.planning.hlo import ON_CHIP, Computation, Instruction, Program, Shape

# Instructions that cause no memory traffic by themselves.
_FREE = frozenset(
  (
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'conditional',
    'call', 'after-all', 'partition-id', 'replica-id', 'opt-barrier', 'domain', 'iota',
    'async-start', 'async-update', 'rng-get-and-update-state',
  )
)  # fmt: skip

_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')

KINDS = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'ragged-all-to-all',
  'collective-permute',
)


@dataclasses.dataclass(frozen=True)
class Costs:
  """The costs of one execution of a program on one device.

  Attributes:
    flops: multiplications and additions of matrix products, convolutions and kernels.
    traffic: bytes read from and written to the device memory.
    collectives: communication by kind of collective.
  """

  flops: float
  traffic: float
  collectives: 'dict[str, Exchange]'

  @property
  def near(self) -> float:
    """Bytes sent within the slice."""
    return sum(x.near for x in self.collectives.values())

  @property
  def far(self) -> float:
    """Bytes sent between slices."""
    return sum(x.far for x in self.collectives.values())


@dataclasses.dataclass
class Exchange:
  """The communication of all collectives of one kind, with ring algorithms.

  Attributes:
    count: number of executions.
    near: bytes that a device sends within its slice.
    far: bytes that a device sends to other slices.
  """

  count: float = 0
  near: float = 0
  far: float = 0


def costs(program: Program, per_slice: int) -> Costs:
  """Return the costs of a program on one device.

  Args:
    program: the parsed HLO.
    per_slice: number of devices of a slice; devices are numbered slice by slice.

  Raises:
    ValueError: the replica groups of a collective have an unknown notation.
  """
  flops = traffic = 0.0
  collectives: dict[str, Exchange] = {}
  seen: set[str] = set()
  for computation, times, fused in program.visits():
    for instruction in computation.instructions.values():
      flops += times * operations(instruction, computation)
      if not fused:
        traffic += times * moved(instruction, computation, program)
      kind = _kind(instruction, computation)
      if kind in KINDS:
        # A collective that overlaps with several fusions appears in each; count it once.
        channel = instruction.attribute('channel_id')
        if fused and channel in seen:
          continue
        seen.add(channel)
        if fused:
          both = (instruction, *computation.operands(instruction))
          traffic += times * sum(_away(x.shapes) for x in both)
        sent, spread = _sent(kind, instruction, computation, per_slice)
        exchange = collectives.setdefault(kind, Exchange())
        exchange.count += times
        if spread:
          exchange.far += times * sent
        else:
          exchange.near += times * sent
  return Costs(flops, traffic, collectives)


def _kind(instruction: Instruction, computation: Computation) -> str:
  """Return the kind of a collective, or the opcode of another instruction.

  The TPU compiler writes a reduce-scatter as an all-reduce; only the name of its computation tells
  them apart. Transfers to other slices are sends to the host, with the kind as an attribute.
  """
  if instruction.opcode == 'send':
    between = _BETWEEN_SLICES.search(instruction.attributes)
    return between.group(1).lower().replace('_', '-') if between else 'send'
  kind = instruction.opcode.removesuffix('-start')
  scattered = kind == 'all-reduce' and computation.name.startswith('all-reduce-scatter')
  return 'reduce-scatter' if scattered else kind


def operations(instruction: Instruction, computation: Computation) -> float:
  """Return the FLOPs of a matrix product, convolution or custom call; 0 for other instructions."""
  if instruction.opcode == 'dot':
    (left, *_), dims = (
      computation.operands(instruction),
      instruction.attribute('lhs_contracting_dims'),
    )
    contracted = [left.shapes[0].sizes[int(i)] for i in re.findall(r'\d+', dims)]
    return 2.0 * instruction.shapes[0].elements * math.prod(contracted)
  if instruction.opcode == 'convolution':
    return _convolution(instruction, computation)
  if instruction.opcode == 'custom-call':
    said = re.search(r'"cost_estimate":\s*\{[^{}]*"flops":\s*"?(\d+)', instruction.attributes)
    return float(said.group(1)) if said else 0.0
  return 0.0


def _convolution(instruction: Instruction, computation: Computation) -> float:
  """Return 2 x the products of outputs and weights, without those on padding or dilation zeros.

  The TPU compiler writes batched matrix products as convolutions with mostly empty, dilated
  windows.
  """
  data, kernel = (x.shapes[0] for x in computation.operands(instruction)[:2])
  out = instruction.shapes[0]
  left, right, result = re.split(r'_|->', instruction.attribute('dim_labels'))
  window = instruction.attributes
  spatial = sorted(label for label in result if label.isdecimal())
  pairs = 1.0
  for i, label in enumerate(spatial):
    pairs *= meetings(
      data.sizes[left.index(label)],
      kernel.sizes[right.index(label)],
      out.sizes[result.index(label)],
      stride=_window(window, 'stride', i, 1),
      low=_padding(window, i),
      holes=_window(window, 'lhs_dilate', i, 1),
      spread=_window(window, 'rhs_dilate', i, 1),
    )
  batch, features = out.sizes[result.index('b')], out.sizes[result.index('f')]
  groups = int(instruction.attribute('batch_group_count') or 1)
  return 2.0 * batch * features * kernel.sizes[right.index('i')] * pairs / (groups or 1)


def _window(text: str, name: str, axis: int, default: int) -> int:
  found = re.search(rf'window=\{{[^}}]*\b{name}=([\dx]+)', text)
  return int(found.group(1).split('x')[axis]) if found else default


def _padding(text: str, axis: int) -> int:
  found = re.search(r'window=\{[^}]*\bpad=([\d_x\-]+)', text)
  return int(found.group(1).split('x')[axis].split('_')[0]) if found else 0


def moved(instruction: Instruction, computation: Computation, program: Program) -> float:
  """Return the bytes that an instruction reads from and writes to the device memory.

  Slicing and update instructions count only the slice, not the whole array.
  """
  opcode, operands = instruction.opcode, computation.operands(instruction)
  if opcode in _FREE:
    return 0.0
  if opcode in ('dynamic-slice', 'gather', 'slice'):
    return 2 * _away(instruction.shapes)
  if opcode in ('dynamic-update-slice', 'scatter'):
    return 2 * _away(operands[min(1, len(operands) - 1)].shapes)
  if opcode.endswith('-done'):
    return 0.0
  if opcode.endswith('-start') and len(instruction.shapes) > 1:
    # The result of an asynchronous operation is the tuple (source, destination, ...).
    return _away(instruction.shapes[1:2]) + min(
      _away(instruction.shapes[:1]), instruction.shapes[1].bytes
    )
  if opcode == 'fusion':
    inner = program.computations[instruction.attribute('calls').lstrip('%')]
    passing = _in_background(inner)
    return sum(
      _read(i, inner, o) for i, o in enumerate(operands) if not passing & set(o.shapes)
    ) + _written(inner, instruction, passing)
  return _away(instruction.shapes) + sum(_away(operand.shapes) for operand in operands)


def _in_background(inner: Computation) -> set[Shape]:
  """Return the arrays of collectives that run in the background of a fusion.

  They only pass through the fusion; `costs` counts their traffic with the collective.
  """
  found = set()
  for one in inner.instructions.values():
    if one.opcode in KINDS:
      found |= {shape for x in (one, *inner.operands(one)) for shape in x.shapes}
  # The arrays may be in device memory or on-chip memory.
  return {dataclasses.replace(shape, space=space) for shape in found for space in range(2)}


def _away(shapes: Sequence[Shape]) -> float:
  return sum(shape.bytes for shape in shapes if shape.space != ON_CHIP)


def _read(index: int, inner: Computation, operand: Instruction) -> float:
  """Return the bytes that a fusion reads of operand `index` from the device memory."""
  name = next(
    (i.name for i in inner.instructions.values() if i.opcode == 'parameter'
     and i.attributes == str(index)), None,
  )  # fmt: skip
  users = [i for i in inner.instructions.values() if name in i.operands]
  whole = _away(operand.shapes)
  if not whole or not users:
    return whole
  if all(user.opcode in ('dynamic-slice', 'gather') and user.operands[0] == name for user in users):
    return sum(user.bytes for user in users)
  if all(user.opcode == 'dynamic-update-slice' and user.operands[0] == name for user in users):
    return 0.0  # Updated in place.
  return whole


def _written(inner: Computation, instruction: Instruction, passing: set[Shape]) -> float:
  root = inner.root
  roots = inner.operands(root) if root.opcode == 'tuple' else [root]
  total = 0.0
  for one, shape in zip(roots, instruction.shapes, strict=False):
    if shape in passing:
      continue
    if one.opcode == 'bitcast':
      one = next(iter(inner.operands(one)), one)
    if one.opcode == 'dynamic-update-slice':
      total += inner.operands(one)[1].bytes if shape.space != ON_CHIP else 0.0
    else:
      total += _away([shape])
  return total


def _sent(
  kind: str, instruction: Instruction, computation: Computation, per_slice: int
) -> tuple[float, bool]:
  """Return the bytes that a device sends, and whether the device group spans slices."""
  if instruction.opcode == 'send':
    return instruction.shapes[0].bytes, True
  group = first_group(instruction)
  size = sum(x.bytes for x in computation.operands(instruction))
  n = len(group)
  spread = len({device // per_slice for device in group}) > 1
  share = {
    'all-gather': n - 1,
    'all-reduce': 2 * (n - 1) / n,
    'collective-permute': 1.0,
  }.get(kind, (n - 1) / n)
  return size * share, spread


def first_group(instruction: Instruction) -> list[int]:
  """Return the devices of the first group of a collective.

  Understands source-target pairs and replica groups written as lists, as mesh axes or as a
  transposed iota array. Returns [0] if there are no groups.

  Raises:
    ValueError: the replica groups have another notation.
  """
  text = instruction.attributes
  pairs = re.search(r'source_target_pairs=\{\{(\d+),(\d+)\}', text)
  if pairs:
    return [int(pairs.group(1)), int(pairs.group(2))]
  listed = re.search(r'replica_groups=\{\{([\d,]+)\}', text)
  if listed:
    return [int(device) for device in listed.group(1).split(',')]
  named = re.search(
    r'replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([\d,T()[\]]*)\))? \{([^}]*)\}', text
  )
  if named:
    return _of_mesh(*named.groups())
  numbered = re.search(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', text)
  if not numbered:
    if unknown := re.search('replica_groups=.{0,80}', text):
      raise ValueError(f'which devices exchange is not understood: {unknown.group()}')
    return [0]
  shape, base, order = (
    [int(x) for x in part.split(',')] if part else None for part in numbered.groups()
  )
  assert shape is not None and base is not None
  devices = np.arange(math.prod(base)).reshape(base).transpose(order).reshape(shape)
  return devices.reshape(-1, shape[-1])[0].tolist()


def _of_mesh(sizes: str, devices: str | None, axes: str) -> list[int]:
  """Return the first device group along some axes of a mesh.

  Args:
    sizes: the mesh axes, such as `'a'=4,'b'=4`.
    devices: the device order as an iota array, such as `[16]` or `[4,4]T(1,0)`; None if ascending.
    axes: the axes of the group. A sub-axis has the form `'a':(before)size`.
  """
  shape = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", sizes)}
  numbers = np.arange(math.prod(shape.values()))
  if devices:
    found = re.search(r'\[([\d,]+)\](?:T\(([\d,]+)\))?', devices)
    assert found is not None, devices
    base, order = found.groups()
    numbers = numbers.reshape([int(x) for x in base.split(',')])
    if order:
      numbers = numbers.transpose([int(x) for x in order.split(',')])
  numbers = numbers.reshape(list(shape.values()))
  place: list[Any] = [0] * len(shape)
  for name, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", axes):
    axis = list(shape).index(name)
    if before:
      after = shape[name] // int(before) // int(size)
      place[axis] = slice(0, int(size) * after, after)
    else:
      place[axis] = slice(None)
  return np.asarray(numbers[tuple(place)]).reshape(-1).tolist()
