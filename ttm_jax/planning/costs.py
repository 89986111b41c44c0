"""Count the FLOPs, memory traffic and communication of a compiled program on one device.

The counts come from the HLO text of the program (see `hlo`) and include loop trip counts. Custom
kernels count by their own cost estimates. The kernels of object attention state the cost of all
token pairs, because the number of skipped blocks is known only at run time.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

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
_KERNEL_FLOPS = re.compile(r'"cost_estimate":\s*\{[^{}]*"flops":\s*"?(\d+)')

# The bytes that a device sends with ring algorithms among n devices, as a multiple of its operands.
_SENT = {
  'all-gather': lambda n: n - 1,
  'all-reduce': lambda n: 2 * (n - 1) / n,
  'reduce-scatter': lambda n: (n - 1) / n,
  'all-to-all': lambda n: (n - 1) / n,
  'ragged-all-to-all': lambda n: (n - 1) / n,
  'collective-permute': lambda n: 1,
}


@dataclasses.dataclass
class Communication:
  """The communication of all collectives of one kind, with ring algorithms.

  Attributes:
    count: number of executions.
    near: bytes that a device sends within its slice.
    far: bytes that a device sends to other slices.
  """

  count: float = 0
  near: float = 0
  far: float = 0


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
  collectives: dict[str, Communication]

  @property
  def near(self) -> float:
    """Bytes sent within the slice."""
    return sum(x.near for x in self.collectives.values())

  @property
  def far(self) -> float:
    """Bytes sent between slices."""
    return sum(x.far for x in self.collectives.values())


def costs(program: Program, per_slice: int) -> Costs:
  """Return the costs of a program on one device.

  Args:
    program: the parsed HLO.
    per_slice: number of devices of a slice; devices are numbered slice by slice.

  Raises:
    ValueError: the replica groups of a collective have an unknown notation.
  """
  flops = traffic = 0.0
  collectives: dict[str, Communication] = {}
  seen: set[str] = set()
  for computation, times, fused in program.visits():
    for instruction in computation.instructions.values():
      flops += times * _flops(instruction)
      if not fused:
        traffic += times * _traffic(instruction)
      kind = _kind(instruction, computation)
      if kind not in _SENT:
        continue
      # A collective that overlaps with several fusions appears in each; count it once.
      channel = instruction.attribute('channel_id')
      if fused and channel in seen:
        continue
      seen.add(channel)
      if fused:
        traffic += times * sum(_hbm_bytes(x.shapes) for x in (instruction, *instruction.operands))
      found = collectives.setdefault(kind, Communication())
      found.count += times
      if instruction.opcode == 'send':
        found.far += times * instruction.shapes[0].bytes
        continue
      group = first_group(instruction.attributes)
      sent = sum(x.bytes for x in instruction.operands) * _SENT[kind](len(group))
      if len({device // per_slice for device in group}) > 1:
        found.far += times * sent
      else:
        found.near += times * sent
  return Costs(flops, traffic, collectives)


def _kind(instruction: Instruction, computation: Computation) -> str:
  """Return the kind of a collective, or the opcode of another instruction.

  The TPU compiler writes a reduce-scatter as an all-reduce; only the name of its computation tells
  them apart. Transfers to other slices are sends to the host, with the kind as an attribute.
  """
  if instruction.opcode == 'send':
    between = _BETWEEN_SLICES.search(instruction.attributes)
    return between[1].lower().replace('_', '-') if between else 'send'
  kind = instruction.opcode.removesuffix('-start')
  scattered = kind == 'all-reduce' and computation.name.startswith('all-reduce-scatter')
  return 'reduce-scatter' if scattered else kind


def _flops(instruction: Instruction) -> float:
  """Return the FLOPs of a matrix product, convolution or custom call; 0 for other instructions."""
  if instruction.opcode == 'dot':
    (out,), left = instruction.shapes, instruction.operands[0].shapes[0]
    contracted = re.findall(r'\d+', instruction.attribute('lhs_contracting_dims'))
    return 2.0 * math.prod(out.sizes) * math.prod(left.sizes[int(i)] for i in contracted)
  if instruction.opcode == 'convolution':
    return _convolution(instruction)
  if instruction.opcode == 'custom-call':
    estimate = _KERNEL_FLOPS.search(instruction.attributes)
    return float(estimate[1]) if estimate else 0.0
  return 0.0


def _convolution(instruction: Instruction) -> float:
  """Return 2 x the products of outputs and weights, without those on padding or dilation zeros.

  The TPU compiler writes batched matrix products as convolutions with mostly empty, dilated
  windows.
  """
  labels = re.split(r'_|->', instruction.attribute('dim_labels'))
  data, kernel, out = (
    dict(zip(label, x.shapes[0].sizes, strict=True))
    for label, x in zip(labels, (*instruction.operands, instruction), strict=True)
  )
  # Such as {size=3x3 stride=2x2 pad=1_1x1_1}.
  window = dict(part.split('=') for part in instruction.attribute('window').strip('{}').split())

  def along(axis: int, name: str, default: int) -> int:
    return int(window[name].split('x')[axis].split('_')[0]) if name in window else default

  pairs = 1.0
  for axis, label in enumerate(sorted(filter(str.isdecimal, out))):
    pairs *= meetings(
      data[label],
      kernel[label],
      out[label],
      stride=along(axis, 'stride', 1),
      low=along(axis, 'pad', 0),
      holes=along(axis, 'lhs_dilate', 1),
      spread=along(axis, 'rhs_dilate', 1),
    )
  groups = int(instruction.attribute('batch_group_count') or 1)
  return 2.0 * out['b'] * out['f'] * kernel['i'] * pairs / groups


def _traffic(instruction: Instruction) -> float:
  """Return the bytes that an instruction reads from and writes to the device memory.

  Slicing and update instructions count only the slice, not the whole array.
  """
  opcode, operands, shapes = instruction.opcode, instruction.operands, instruction.shapes
  if opcode in _FREE or opcode.endswith('-done'):
    return 0.0
  if opcode in ('dynamic-slice', 'gather', 'slice'):
    return 2 * _hbm_bytes(shapes)
  if opcode in ('dynamic-update-slice', 'scatter'):
    return 2 * _hbm_bytes(operands[min(1, len(operands) - 1)].shapes)
  if opcode.endswith('-start') and len(shapes) > 1:
    # The result of an asynchronous operation is the tuple (source, destination, ...).
    return _hbm_bytes(shapes[1:2]) + min(_hbm_bytes(shapes[:1]), shapes[1].bytes)
  if opcode == 'fusion':
    return _fusion_traffic(instruction)
  return _hbm_bytes(shapes) + sum(_hbm_bytes(operand.shapes) for operand in operands)


def _fusion_traffic(fusion: Instruction) -> float:
  """Return the bytes that a fusion reads from and writes to the device memory."""
  (inner,) = fusion.called
  inside = inner.instructions.values()
  # Arrays of collectives that overlap with the fusion only pass through it; `costs` counts their
  # traffic with the collective. They may be in device memory or in on-chip memory.
  passing = {
    (shape.dtype, shape.sizes)
    for x in inside
    if x.opcode in _SENT
    for y in (x, *x.operands)
    for shape in y.shapes
  }

  def is_passing(shapes: Sequence[Shape]) -> bool:
    return any(shape.space < 2 and (shape.dtype, shape.sizes) in passing for shape in shapes)

  parameters = {x.inside: x for x in inside if x.opcode == 'parameter'}
  total = 0.0
  for i, operand in enumerate(fusion.operands):
    if not is_passing(operand.shapes):
      parameter = parameters[str(i)]
      total += _bytes_read(
        parameter, [x for x in inside if parameter in x.operands], operand.shapes
      )
  roots = inner.root.operands if inner.root.opcode == 'tuple' else [inner.root]
  for root, shape in zip(roots, fusion.shapes, strict=False):
    if not is_passing([shape]):
      total += _bytes_written(root, shape)
  return total


def _hbm_bytes(shapes: Sequence[Shape]) -> float:
  """Return the bytes of arrays that are not in on-chip memory."""
  return sum(shape.bytes for shape in shapes if shape.space != ON_CHIP)


def _bytes_read(
  parameter: Instruction, users: Sequence[Instruction], shapes: Sequence[Shape]
) -> float:
  """Return the bytes that a fusion reads of one operand from the device memory."""
  whole = _hbm_bytes(shapes)
  opcodes = {user.opcode if user.operands[0] is parameter else '' for user in users}
  if not whole or not users:
    return whole
  if opcodes <= {'dynamic-slice', 'gather'}:
    return sum(user.bytes for user in users)
  return 0.0 if opcodes == {'dynamic-update-slice'} else whole  # An update is in place.


def _bytes_written(root: Instruction, shape: Shape) -> float:
  """Return the bytes that a fusion writes of one result to the device memory."""
  if root.opcode == 'bitcast':
    (root,) = root.operands
  if root.opcode == 'dynamic-update-slice' and shape.space != ON_CHIP:
    return root.operands[1].bytes
  return _hbm_bytes([shape])


def first_group(attributes: str) -> list[int]:
  """Return the devices of the first group of a collective.

  Understands source-target pairs and replica groups written as lists, as mesh axes or as a
  transposed iota array. Returns [0] if there are no groups.

  Args:
    attributes: the attributes of the instruction.

  Raises:
    ValueError: the replica groups have another notation.
  """
  if listed := re.search(r'(?:source_target_pairs|replica_groups)=\{\{([\d,]+)\}', attributes):
    return _numbers(listed[1])
  if named := re.search(
    r'replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^ ]*)\))? \{([^}]*)\}', attributes
  ):
    return _of_mesh(*named.groups(''))
  if numbered := re.search(
    r'replica_groups=\[[\d,]*?(\d+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)', attributes
  ):
    return _iota(numbered[2]).reshape(-1, int(numbered[1]))[0].tolist()
  if unknown := re.search('replica_groups=.{0,80}', attributes):
    raise ValueError(f'cannot read the replica groups of a collective: {unknown[0]}')
  return [0]


def _of_mesh(sizes: str, devices: str, axes: str) -> list[int]:
  """Return the first device group along some axes of a mesh.

  Args:
    sizes: the mesh axes, such as `'a'=4,'b'=4`.
    devices: the device order as an iota array (see `_iota`); '' if ascending.
    axes: the axes of the group. A sub-axis has the form `'a':(before)size`.
  """
  shape = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", sizes)}
  place: dict[str, int | slice] = dict.fromkeys(shape, 0)
  for name, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", axes):
    step = shape[name] // int(before) // int(size) if before else 1
    place[name] = slice(0, int(size) * step if before else None, step)
  numbers = _iota(devices or f'[{math.prod(shape.values())}]').reshape(list(shape.values()))
  return numbers[tuple(place.values())].reshape(-1).tolist()


def _iota(text: str) -> np.ndarray:
  """Return the numbers of a transposed iota array, such as `[4,2]T(1,0)`."""
  base, _, order = text.partition('T')
  shape = _numbers(base)
  return np.arange(math.prod(shape)).reshape(shape).transpose(_numbers(order) or None)


def _numbers(text: str) -> list[int]:
  return [int(x) for x in re.findall(r'\d+', text)]
