"""Compile the train step for TPUs that are not present, and check its HLO.

Run by `make test-aot-plan`; -s shows the figures. The small network compiles in seconds, the 4B
one in minutes.
"""

import jax
import pytest
from jax.sharding import Mesh

from tests.helpers import tiny
from ttm_jax.parallel.mesh import AXES, make_mesh
from ttm_jax.planning import analytic, compile, hlo, inputs, memory
from ttm_jax.planning.compile import Run
from ttm_jax.planning.costs import costs
from ttm_jax.planning.hardware import topology
from ttm_jax.planning.layout import STEP, lay_out
from ttm_jax.planning.report import compiled_report
from ttm_jax.planning.search import Planner

pytest.importorskip('libtpu', reason='libtpu is not installed: use `make test-aot-plan`')
pytestmark = pytest.mark.aot


def mesh_of(name: str, slices: int = 1, **sizes: int) -> Mesh:
  return make_mesh({'fsdp': -1} | sizes, compile.tpu_devices(topology(name, slices)))


def small(**changes) -> Run:
  """Stage 2 with the paper's tokens, but narrow and shallow."""
  config = tiny.shipped('stage2_dit')
  config.model.update({'width': 512, 'layers': 8, 'heads': 8, 'ffn': 1024, 'masked_blocks': 3})
  config.update_from_flattened_dict({k.replace('__', '.'): v for k, v in changes.items()})
  return Run.make(config)


def audit(run: Run, mesh: Mesh, read: hlo.Program) -> None:
  """Check for parameters gathered outside the layers, N x N arrays and replicated state."""
  tokens = run.tokens
  stacked = {
    tuple(x.shape)
    for path, x in jax.tree_util.tree_leaves_with_path(run.shapes.params)
    if 'blocks' in jax.tree_util.keystr(path) and x.ndim == 3 and min(x.shape[1:]) > 6
  }
  for computation, times, _ in read.visits():
    for instruction in computation.instructions.values():
      for shape in instruction.shapes:
        assert shape.sizes.count(tokens) < 2, instruction
        assert shape.sizes not in stacked, instruction
      if instruction.opcode.startswith('all-gather') and times == 1:
        # What is gathered once a step is small: input and output layers, texts, modulation.
        assert instruction.bytes < 2e8, instruction
  state = compile.abstract_state(run, mesh)
  for tree in (state.params, state.ema, state.optimizer):
    leaves = jax.tree.leaves(tree)
    replicated = [x for x in leaves if x.sharding.is_fully_replicated]
    assert memory.share(replicated) < 0.01 * sum(x.size * 4 for x in leaves)


@pytest.fixture(scope='module')
def sixteen():
  """The small network on sixteen chips: run, mesh, program."""
  run, mesh = small(), mesh_of('v5e:4x4')
  return run, mesh, compile.lower_step(run, mesh).compile()


def test_no_gathered_parameters_and_no_full_scores(sixteen):
  run, mesh, found = sixteen
  audit(run, mesh, hlo.parse(found.as_text()))


def test_layout_agrees_with_the_complete_compilation(sixteen):
  """Buffer assignment alone gives the same memory as compilation to machine code."""
  run, mesh, whole = sixteen
  (found,) = lay_out(run, mesh, topology('v5e:4x4'), [STEP])
  sizes = whole.memory_analysis()
  print(f'\n{found.arguments:.0f} {found.temporaries:.0f}: {sizes}')
  assert found.arguments == pytest.approx(sizes.argument_size_in_bytes, rel=0.01)
  # Temporaries of the whole program include machine code and some room for its own.
  more = sizes.temp_size_in_bytes - found.temporaries
  assert 0 <= more <= sizes.generated_code_size_in_bytes + 2**25
  stopped, complete = (costs(x, 16) for x in (found.program, hlo.parse(whole.as_text())))
  assert stopped.flops == complete.flops
  assert stopped.near == pytest.approx(complete.near, rel=0.01)


def test_compiled_flops_agree_with_traced_flops(sixteen):
  run, _, found = sixteen
  counted = 16 * costs(hlo.parse(found.as_text()), 16).flops
  assert counted == pytest.approx(analytic.step_flops(run), rel=0.02)


def test_meshes():
  """Test each mesh axis; the compiler's argument size equals our state and batch."""
  run = small()
  for sizes in ({'sequence': 2}, {'tensor': 2}, {'data': 2, 'sequence': 2, 'tensor': 2}):
    mesh = mesh_of('v5e:4x4', **sizes)
    (found,) = lay_out(run, mesh, topology('v5e:4x4'), [STEP])
    state = compile.abstract_state(run, mesh)
    arrays = inputs.batch(run.of_one, 32, compile.batch_sharding(mesh))
    ours = memory.held(state, arrays, 0.0).total
    assert found.arguments == pytest.approx(ours, rel=0.1)
    audit(run, mesh, found.program)


def test_unet_all_gathers_its_weights():
  """Check that products are not split into parts that arrive from neighbors one by one."""
  config = tiny.shipped('stage2_unet')
  config.model.update({'widths': (128, 256), 'masked_blocks': 1})
  run, mesh = Run.make(config, (16, 128, 128)), mesh_of('v5e:4x4')
  (found,) = lay_out(run, mesh, topology('v5e:4x4'), [STEP])
  sent = costs(found.program, 16).collectives
  assert 'all-gather' in sent and 'collective-permute' not in sent, sent


def test_host_memory():
  run = small(optimizer__offload=True, model__remat='offload')
  mesh = mesh_of('v5e:4x4')
  found = compile.lower_step(run, mesh).compile().memory_analysis()
  state = compile.abstract_state(run, mesh)
  moments = memory.held(state, {}, 0.0).host
  assert moments > 0 and found.host_argument_size_in_bytes == pytest.approx(moments, rel=0.05)
  assert found.host_temp_size_in_bytes > 0  # The inputs of the blocks.


def test_two_slices():
  machine = topology('v5e:4x4', 2)
  mesh = mesh_of('v5e:4x4', 2, data=2)
  assert [d.slice_index for d in mesh.devices.reshape(2, -1)[:, 0]] == [0, 1]
  report = compiled_report(small(), mesh, machine)
  # Between slices, only gradient sums are sent, once; parameters are not.
  gradients = report.memory.parameters
  assert 0 < report.costs.far < 4 * gradients < report.costs.near


def test_setting_that_does_not_fit():
  run = small(data__batch_size=1024, model__remat='none')
  planner = Planner(topology('v5e:4x4'), lambda what: pytest.MonkeyPatch.context(), False)
  setting = planner.setting(run)
  report = planner.report(run, setting)
  assert not report.fits
  found = planner.nearest(run, setting, report)
  assert found is not None and found[1].fits
  print(found[0].flags(run.config))


# Two samples per chip, sixteen chips per copy of the parameters.
WEAK = {'v5p:2x2x4': 1, 'v5p:4x4x4': 4, 'v5p:4x8x8': 16, 'v5p:8x8x16': 64}


def test_weak_scaling():
  found = []
  for name, copies in WEAK.items():
    machine = topology(name)
    config = tiny.shipped('stage2_dit')
    config.data.batch_size = 32 * copies
    report = compiled_report(Run.make(config), mesh_of(name, data=copies, fsdp=16), machine)
    sent = {kind: f'{x.near / 1e6:.0f} MB' for kind, x in report.costs.collectives.items()}
    print(
      f'\n{machine.devices} chips: {report.costs.flops / 1e12:.2f} TFLOP,'
      f' {report.memory.total / 1e9:.2f} GB, {sent}'
    )
    found.append(report)
  first = found[0]
  for report in found:
    assert report.costs.flops == pytest.approx(first.costs.flops, rel=0.05)
    assert report.memory.total == pytest.approx(first.memory.total, rel=0.05)


@pytest.mark.parametrize('name', ['v5e:4x4', 'v5p:2x2x4'])
def test_the_4b_network_fits_on_sixteen_chips(name):
  run, machine = Run.make(tiny.shipped('stage2_dit')), topology(name)
  mesh = mesh_of(name)
  (found,) = lay_out(run, mesh, machine, [STEP])
  audit(run, mesh, found.program)
  state = compile.abstract_state(run, mesh)
  arrays = inputs.batch(run.of_one, run.config.data.batch_size, compile.batch_sharding(mesh))
  held = memory.of_program(found, state, arrays)
  print(f'\n{name}: {held.total / 1e9:.2f} GB of {machine.chip.memory / 1e9:.2f} GB, {held}')
  assert run.config.data.batch_size == 32 and held.total < machine.chip.memory
  assert dict(mesh.shape) == dict(zip(AXES, (1, 16, 1, 1), strict=True))
