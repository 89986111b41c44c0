"""Plans: topologies, parsed and counted programs, memory by kind, roofline, choice of settings.

Programs here are short texts, or compiled for the CPU; `aot/test_plan.py` compiles for TPUs.
"""

import contextlib
import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.helpers import cli, tiny
from ttm_jax.codecs.tae import TAE, TAEConfig, forward_flops
from ttm_jax.codecs.wan_vae import WanVAE, WanVAEConfig
from ttm_jax.data.context import Context
from ttm_jax.data.latents import Latents
from ttm_jax.errors import InputError
from ttm_jax.ops.object_attention import object_attention
from ttm_jax.ops.rematerialization import POLICIES
from ttm_jax.parallel.chips import CHIPS, chip_of
from ttm_jax.parallel.mesh import AXES, HOST
from ttm_jax.planning import (
  analytic,
  flops,
  hlo,
  inputs,
  memory,
  roofline,
  sampler_report,
  search,
  table,
)
from ttm_jax.planning.compile import Run, abstract_state
from ttm_jax.planning.costs import Communication, Costs, costs, first_group
from ttm_jax.planning.hardware import topology
from ttm_jax.planning.report import analytic_report
from ttm_jax.planning.search import Planner, Setting
from ttm_jax.presets import PRESETS


def test_topologies():
  pod = topology('v5p:4x4x4', 2)
  assert (pod.devices, pod.slices, pod.chip) == (128, 2, CHIPS['v5p'])
  assert topology('v5e:4x4').devices == 16
  gpus = topology('h100x64')
  assert (gpus.devices, gpus.slices) == (64, 8)
  assert topology('h200x1').slices == 1


@pytest.mark.parametrize(
  'name, slices, message',
  [
    ('v5e:4x5', 1, r'\'v5e:4x5\' is unknown \(did you mean "4x8"\?\): v5e:2x2, .*, v5e:16x16$'),
    ('v7:2x2', 1, 'v4:2x2x1 to v4:8x16x16, .*, a100xN, h100xN'),
    ('h100', 1, 'is unknown: use one of'),
    ('v5px4', 1, 'is unknown: use one of'),
    ('h100x12', 1, 'h100x12 does not fill whole nodes of 8 GPUs: use 8 or 16 GPUs'),
    ('h100x8', 2, 'num_slices is for TPUs only: h100x8 already gives'),
    ('v5e:4x4', 0, 'must be 1 or more'),
  ],
)
def test_invalid_topologies(name, slices, message):
  with pytest.raises(InputError, match=message):
    topology(name, slices)


# A loop of 5 trips with a product and a sum over pairs of devices; then an all-gather over four,
# which overlaps with a fusion. The loop counter goes from 0 to 10 by 2. The compiler numbers every
# fifth operand in a comment.
PROGRAM = """HloModule step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%body (p: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %p = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = f32[8,16]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %two = s32[]{:T(128)} constant(2)
  %add.1 = s32[]{:T(128)} add(%i, %two)
  %w = f32[16,16]{1,0:T(8,128)S(1)} constant({...})
  %y = f32[8,16]{1,0:T(8,128)} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %z = f32[8,16]{1,0:T(8,128)} all-reduce(%y), channel_id=1, replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %t = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}) tuple(%add.1, %z)
}

%condition (p: (s32[], f32[8,16])) -> pred[] {
  %p = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %ten = s32[]{:T(128)} constant(10)
  ROOT %less = pred[]{:T(512)} compare(%i, %ten), direction=LT
}

%background (a: f32[2,16], b: f32[32,16], c: bf16[4,4]) -> (f32[32,16], bf16[4,4]) {
  %a = f32[2,16]{1,0} parameter(0)
  %b = f32[32,16]{1,0} parameter(1)
  %c = bf16[4,4]{1,0} parameter(2)
  %g = f32[32,16]{1,0} all-gather(%a), channel_id=7, replica_groups=mesh['x'=2,'y'=2] {'x','y'}, dimensions={0}
  %e = bf16[4,4]{1,0} exponential(%c)
  ROOT %r = (f32[32,16]{1,0}, bf16[4,4]{1,0}) tuple(%g, %e)
}

ENTRY %main (x: f32[8,16], a: f32[2,16]) -> f32[8,16] {
  %x = f32[8,16]{1,0:T(8,128)} parameter(0)
  %a = f32[2,16]{1,0:T(8,128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %begin = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}) tuple(%zero, %x)
  %loop = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}) while(%begin), condition=%condition, body=%body
  %b = f32[32,16]{1,0} custom-call(), custom_call_target="AllocateBuffer"
  %c = bf16[4,4]{1,0} custom-call(%x), custom_call_target="tpu_custom_call", backend_config={"custom_call_config": {"body": "ML(v)", "cost_estimate":{"flops":"1000","transcendentals":"1"}}}
  %f.1 = (f32[32,16]{1,0}, bf16[4,4]{1,0}) fusion(%a, %b, /*index=2*/%c), kind=kLoop, calls=%background
  %f.2 = (f32[32,16]{1,0}, bf16[4,4]{1,0}) fusion(%a, %b, %c), kind=kLoop, calls=%background
  ROOT %out = f32[8,16]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""  # noqa: E501


def test_executions_of_computations():
  read = hlo.parse(PROGRAM)
  assert read.entry is read.computations['main']
  times = {computation.name: n for computation, n, _ in read.visits()}
  assert times == {'main': 1, 'body': 5, 'condition': 6, 'background': 1}
  fused = {computation.name for computation, _, inside in read.visits() if inside}
  assert fused == {'background'}
  weights = read.computations['body'].instructions['w'].shapes
  assert weights == (hlo.Shape('f32', (16, 16), hlo.ON_CHIP),)
  assert read.computations['main'].instructions['loop'].bytes == 4 + 4 * 8 * 16


@pytest.mark.parametrize('annotation, trips', [('', 5), ('{"known_trip_count":{"n":"30"}}', 30)])
def test_trip_count_of_a_loop(annotation, trips):
  text = PROGRAM.replace('body=%body\n', f'body=%body, backend_config={annotation}\n')
  assert hlo.parse(text).entry.instructions['loop'].trips == trips


def test_trip_count_of_a_loop_with_a_fused_comparison():
  compare = 'pred[]{:T(512)} compare(%i, %ten), direction=LT'
  text = PROGRAM.replace(compare, 'pred[] fusion(%i, %ten), kind=kLoop, calls=%less')
  less = f"""%less (i: s32[], ten: s32[]) -> pred[] {{
  %i = s32[] parameter(0)
  %ten = s32[] parameter(1)
  ROOT %c = {compare}
}}
"""
  text = text.replace('%condition (p', less + '\n%condition (p')
  assert hlo.parse(text).entry.instructions['loop'].trips == 5


def test_costs_of_a_program():
  found = costs(hlo.parse(PROGRAM), per_slice=2)
  # Products of the loop, and the kernel's own estimate.
  assert found.flops == 5 * 2 * 8 * 16 * 16 + 1000
  x = 4 * 8 * 16
  reduced, gathered = found.collectives['all-reduce'], found.collectives['all-gather']
  # Over pairs within a slice; over all four devices, therefore between slices, once.
  assert (reduced.count, reduced.near, reduced.far) == (5, 5 * x, 0)
  assert (gathered.count, gathered.near, gathered.far) == (1, 0, 3 * 4 * 2 * 16)
  assert (found.near, found.far) == (5 * x, 3 * 128)
  # In the loop: the product and the sum read and write x, the counter its numbers. Weights are in
  # on-chip memory. Outside: the kernel, the 4 x 4 of the fusions, and the all-gather through them.
  loop = 5 * (4 * x + 12) + 6 * 9
  kernel, fusions, gather = 2048 + x + 32, 2 * 64, 128 + 2048
  assert found.traffic == loop + kernel + fusions + gather


def test_reduce_scatter_sends_half_of_an_all_reduce():
  """The TPU compiler writes it as an all-reduce in a computation of that name."""
  read = hlo.parse(
    PROGRAM.replace('%background', '%all-reduce-scatter.2').replace(
      '%g = f32[32,16]{1,0} all-gather(%a)', '%g = f32[2,16]{1,0} all-reduce(%a)'
    )
  )
  (kind, found), _ = sorted(costs(read, per_slice=4).collectives.items(), reverse=True)
  assert (kind, found.count, found.near) == ('reduce-scatter', 1, 3 / 4 * 4 * 2 * 16)


def test_first_replica_group():
  assert first_group('replica_groups={{0,4},{1,5}}, dimensions={0}') == [0, 4]
  assert first_group('replica_groups=[2,4]<=[8]') == [0, 1, 2, 3]
  assert first_group('replica_groups=[4,2]<=[2,4]T(1,0)') == [0, 4]
  assert first_group("replica_groups=mesh['a'=2,'b'=4] {'b'}") == [0, 1, 2, 3]
  assert first_group("replica_groups=mesh['a'=2,'b'=4] {'a'}") == [0, 4]
  assert first_group("replica_groups=mesh['a'=8] {'a':(1)2}") == [0, 4]
  assert first_group("replica_groups=mesh['a'=8] {'a':(2)4}") == [0, 1, 2, 3]
  order = 'device_ids=([2,4]T(1,0))'
  assert first_group(f"replica_groups=mesh['a'=4,'b'=2], {order} {{'a'}}") == [0, 1, 2, 3]
  assert first_group(f"replica_groups=mesh['a'=4,'b'=2], {order} {{'b'}}") == [0, 4]
  assert first_group("replica_groups=mesh['a'=2,'b'=4], device_ids=([8]) {'b'}") == [0, 1, 2, 3]
  with pytest.raises(
    ValueError, match=r'cannot read the replica groups of a collective: replica_groups=\?'
  ):
    first_group('replica_groups=?')
  assert first_group('source_target_pairs={{3,2},{2,1}}') == [3, 2]


def test_transfers_between_slices():
  """They are sends to the host, one for each device of a slice."""
  text = """
ENTRY %main (p: bf16[400,128]) -> token[] {
  %p = bf16[400,128]{1,0} parameter(0)
  %t = token[] after-all()
  ROOT %send.1 = (bf16[400,128]{1,0}, u32[], token[]) send(%p, %t), channel_id=2, \
is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"\
,_xla_megascale_target="{1,2}x{0:15}",_xla_megascale_transfer_type="ALL_REDUCE"}
}
"""
  found = costs(hlo.parse(text), 16).collectives
  assert found == {'all-reduce': Communication(count=1.0, near=0.0, far=400 * 128 * 2)}


def reference_meetings(data, kernel, out, *, stride, low, holes, spread):
  place = np.arange(out)[:, None] * stride + np.arange(kernel) * spread - low
  return ((place >= 0) & (place <= (data - 1) * holes) & (place % holes == 0)).sum()


@pytest.mark.parametrize('stride', [1, 2, 15])
@pytest.mark.parametrize('low', [0, 1, 7, -1])
def test_convolution_pairs_without_padding(stride, low):
  for holes in (1, 2, 16):
    for spread in (1, 3):
      for data, kernel, out in ((8, 3, 8), (1, 1, 1), (16, 16, 16), (5, 2, 9)):
        found = {'stride': stride, 'low': low, 'holes': holes, 'spread': spread}
        assert flops.meetings(data, kernel, out, **found) == reference_meetings(
          data, kernel, out, **found
        )


def of_both(function, *args):
  """Count operations as traced, and as in the compiled program."""
  text = jax.jit(function).lower(*args).compile().as_text()
  return flops.count(function, *args), costs(hlo.parse(text), 1).flops


def test_flops_agree_with_a_hand_count():
  x, w = jnp.ones((4, 6, 8)), jnp.ones((8, 5))
  image, kernel = jnp.ones((2, 9, 9, 3)), jnp.ones((3, 3, 3, 7))

  def layers(x, w, image, kernel):
    def trip(h, _):
      return jnp.tanh(h @ w @ w.T), None

    y = jax.lax.scan(jax.checkpoint(trip), x, length=11)[0].sum()
    z = jax.lax.conv_general_dilated(
      image, kernel, (2, 2), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    return y + (z**2).sum()

  products = 11 * 2 * 24 * 8 * 5 * 2
  convolution = 2 * 2 * 16 * 27 * 7
  assert of_both(layers, x, w, image, kernel) == (products + convolution,) * 2
  # Backward: two more of each product, and one more for the checkpoint, except the last.
  derived = jax.grad(layers, argnums=(0, 1, 3))
  traced, compiled = of_both(derived, x, w, image, kernel)
  assert traced == 4 * products + 2 * convolution
  # The compiler removes what is not needed: the recomputation of the last product.
  assert 3 * products < compiled <= traced


def tiny_run(name, context, **changes):
  config = tiny.shrunk(name, **{'model__remat': 'none'} | changes)
  return Run.make(config, context=context)


@pytest.mark.parametrize('preset', ['dit', 'unet', 'wan'])
def test_typical_record_has_the_shapes_of_a_dataset(preset, latents_for):
  directory = latents_for(preset)
  context = Context.load(directory)
  real = Latents(directory, 'train')[0]
  shapes = {k: (v.shape, v.dtype) for k, v in inputs.record(context, stochastic=False).items()}
  for name in ('permutation', 'corrupted'):
    real.pop(name)  # Not read in training.
  wanted = {k: (v.shape, v.dtype) for k, v in real.items()}
  assert shapes == wanted


def test_typical_context_has_the_sizes_of_the_paper():
  context = inputs.typical_context(tiny.shipped('stage2_dit'))
  assert (context.encoding.frames, context.encoding.height) == (128, 256)
  assert context.latent_shape == (16, 32, 32, 16) and inputs.tokens(context) == 4096
  other = inputs.typical_context(tiny.shipped('stage2_dit'), inputs.clip_size('64x128x256'))
  assert other.latent_shape == (8, 16, 32, 16)
  unet = inputs.typical_context(tiny.shipped('stage2_unet'))
  assert unet.latent_shape == (16, 64, 64, 4) and unet.encoding.frames == 16
  with pytest.raises(InputError, match='must be FRAMESxHEIGHTxWIDTH'):
    inputs.clip_size('128x256')


def test_typical_context_of_a_codec_with_certain_numbers_of_frames(monkeypatch):
  wan = dataclasses.replace(
    PRESETS['dit'].typical,
    codec=lambda model: WanVAE(WanVAEConfig(res_blocks=1), rngs=nnx.Rngs(0)),
    latents=lambda model: (32, 32, 32),
  )
  monkeypatch.setitem(PRESETS, 'dit', dataclasses.replace(PRESETS['dit'], typical=wan))
  context = inputs.typical_context(tiny.shipped('stage2_dit'))
  assert context.encoding.frames == 125 and context.latent_shape == (32, 32, 32, 16)
  record = inputs.record(context)
  assert record['video'].shape == (32, 32, 32, 16)
  assert record['token_masks.0.region'].shape[0] == 32
  with pytest.raises(InputError, match=r'128 frames do not fit the codec.* use 125 or 129'):
    inputs.typical_context(tiny.shipped('stage2_dit'), inputs.clip_size('128x256x256'))


def test_flops_of_attention_by_rematerialization():
  q = jax.ShapeDtypeStruct((1, 1024, 2, 64), jnp.bfloat16)
  bits = jax.ShapeDtypeStruct((1, 1024), jnp.int32)

  def counted(remat):
    @functools.partial(jax.checkpoint, policy=POLICIES[remat])
    def attend(q, bits):
      return object_attention(q, q, q, bits, bits, implementation='tpu')

    def loss(q, bits):
      y, _ = jax.lax.scan(lambda q, _: (attend(q, bits), None), q, length=3)
      return y.astype(jnp.float32).sum()

    return flops.count(jax.grad(loss), q, bits)

  with jax.sharding.use_abstract_mesh(analytic.abstract_mesh((1,) * 4, analytic._COUNTED_ON)):
    none, dots, full = map(counted, ('none', 'dots', 'full'))
  assert dots == none
  assert full - none == 3 * 4 * 1024 * 1024 * 64 * 2


@pytest.mark.parametrize('name', ['stage2_dit', 'ti2v_dit', 'stage2_unet'])
def test_model_flops_agree_with_a_traced_forward_pass(name):
  """Compare the formulas of the presets with traced programs."""
  config = tiny.shipped(name)
  if config.preset == 'unet':
    # Many layers take long to trace; these have full width.
    config.model.update({'units': 1, 'masked_blocks': min(config.model.masked_blocks, 3)})
  run = Run.make(config)
  denoiser = run.objective.denoiser
  arrays = {k: jax.ShapeDtypeStruct((1, *x.shape), x.dtype) for k, x in run.of_one.items()}
  chip = analytic.abstract_mesh((1, 1, 1, 1), analytic._COUNTED_ON)
  with jax.sharding.use_abstract_mesh(chip):
    graphdef, params = nnx.split(nnx.eval_shape(lambda: denoiser.build(0)))

    def forward(params, arrays, key):
      target, condition = denoiser.known(arrays, key)
      return nnx.merge(graphdef, params)(target, jnp.zeros(1), condition)

    key = jax.eval_shape(lambda: jax.random.key(0))
    traced = flops.count(forward, params, arrays, key)
  # The formulas omit one-time costs of texts and time, and padding of attention blocks.
  # Convolutions are counted as if the padding were pixels.
  low, high = (1, 1.015) if config.preset == 'dit' else (0.975, 1)
  assert low <= traced / (run.objective.flops_per_sample / 3) < high


def test_codec_flops_agree_with_a_traced_round_trip():
  config = TAEConfig(
    channels=4, base_channels=8, multipliers=(1, 2, 4), temporal_downsamples=1, res_blocks=1
  )
  codec = nnx.eval_shape(lambda: TAE(config, rngs=nnx.Rngs(0)))
  video = jax.ShapeDtypeStruct((1, 8, 32, 48, 3), jnp.float32)
  key = jax.eval_shape(lambda: jax.random.key(0))
  graphdef, params = nnx.split(codec)
  traced = flops.count(
    lambda params, video, key: nnx.merge(graphdef, params).reconstruct(video, key)[0],
    params,
    video,
    key,
  )
  counted = forward_flops(config, (8, 32, 48))
  # The formula counts weights that meet padding: a few percent at the borders of small images.
  assert 0.93 < traced / counted <= 1


def test_memory_by_kind(latents):
  run = tiny_run('stage2_dit', Context.load(latents), mesh__fsdp=2, model__width=64)
  state = abstract_state(run, analytic.abstract_mesh((1, 2, 1, 1)))
  held = memory.held(state, {}, 5.0)
  total = sum(x.size * 4 for x in jax.tree.leaves(state.params))
  whole = memory.share(x for x in jax.tree.leaves(state.params) if x.sharding.is_fully_replicated)
  assert 0 < whole < 0.2 * total
  assert held.parameters == held.ema == whole + (total - whole) / 2
  # Two moments and two counters.
  assert held.optimizer == 2 * held.parameters + 8
  assert held.total == 4 * held.parameters + 8 + 5 and held.host == 0
  away = run.changed({'optimizer.offload': True})
  state = abstract_state(away, analytic.abstract_mesh((1, 2, 1, 1)))
  other = memory.held(state, {}, 5.0)
  assert (other.optimizer, other.host) == (8, 2 * held.parameters)
  kinds = {x.sharding.memory_kind for x in jax.tree.leaves(state.optimizer) if x.ndim}
  assert kinds == {HOST}


def test_a_lora_run_adds_little_to_its_base(latents):
  full = tiny_run('stage2_dit', Context.load(latents), mesh__fsdp=2, model__width=64)
  run = tiny_run('stage2_dit', Context.load(latents), mesh__fsdp=2, model__width=64, lora__rank=2)
  mesh = analytic.abstract_mesh((1, 2, 1, 1))
  state = abstract_state(run, mesh)
  whole, held = memory.held(abstract_state(full, mesh), {}, 0.0), memory.held(state, {}, 0.0)
  trained, frozen = (memory.share(jax.tree.leaves(t)) for t in (state.params, state.frozen))
  assert (held.parameters, held.ema) == (trained + frozen, trained)
  assert held.optimizer == 2 * trained + 8
  # Frozen kernels are bfloat16; half of this network is the table of words, which is not.
  assert trained < 0.2 * whole.parameters and frozen < 0.7 * whole.parameters
  # Gradients of kernels are a third of the FLOPs, adapters and new parts a little.
  assert 0.6 < analytic.step_flops(run) / analytic.step_flops(full) < 0.9
  assert run.objective.flops_per_sample == pytest.approx(full.objective.flops_per_sample * 2 / 3)


def test_roofline():
  chip = CHIPS['v5e']
  needed = Costs(
    flops=2 * chip.flops,
    traffic=3 * chip.bandwidth,
    collectives={
      'all-gather': Communication(4, near=1 * chip.near),
      'all-reduce': Communication(1, far=0.5 * chip.far),
    },
  )
  found = roofline.times(needed, chip)
  assert (found.compute, found.memory, found.near, found.far) == (2, 3, 1, 0.5)
  assert (found.bound, found.least, found.most) == ('memory', 3, 4.5)


class Planned(Planner):
  """A planner whose compiler returns a function of the setting."""

  def __init__(self, machine, run, needs):
    super().__init__(machine, lambda what: contextlib.nullcontext(), False)
    self.needs, self.asked = needs, []
    self.base = analytic_report(run, (1, machine.devices, 1, 1), machine)

  def report(self, run, setting, sampler=None):
    self.asked.append(setting)
    return dataclasses.replace(
      self.base,
      mesh=dict(zip(AXES, setting.mesh, strict=True)),
      remat=setting.remat,
      accumulate=setting.accumulate,
      memory=memory.Memory(0, 0, 0, 0, self.needs(setting)),
    )


@pytest.fixture
def run(latents):
  changes = {'data__batch_size': 32, 'mesh__data': 1, 'mesh__fsdp': -1}
  return tiny_run('stage2_dit', Context.load(latents), **changes)


@pytest.mark.slow
def test_nearest_setting_that_fits(run):
  run = run.changed({'data.batch_size': 8})  # Nothing splits it further.
  planner = Planned(
    topology('h100x8'), run, lambda s: 85e9 if s.remat in ('none', 'dots') else 10e9
  )
  setting = planner.setting(run)
  assert setting == Setting((1, 8, 1, 1), 'none', 1, False)
  refused = planner.report(run, setting)
  assert not refused.fits
  found, report = planner.nearest(run, setting, refused)
  # Only as much as needed: mesh and batch stay unchanged.
  assert found == Setting((1, 8, 1, 1), 'full', 1, False) and report.fits
  assert found.flags(run.config) == '--config.mesh.fsdp=8 --config.model.remat=full'
  assert len(planner.asked) <= 2 + search.TRIES


@pytest.mark.slow
def test_no_setting_fits(run):
  planner = Planned(topology('h100x8'), run, lambda s: 1e12)
  setting = planner.setting(run)
  refused = planner.report(run, setting)
  assert planner.nearest(run, setting, refused) is None
  assert len(planner.asked) <= 1 + search.TRIES


def test_sweep_covers_all_valid_meshes(run):
  planner = Planned(topology('h100x8'), run, lambda s: 1e9)
  reports = list(planner.sweep(run, planner.setting(run)))
  seen = {(tuple(r.mesh.values()), r.remat) for r in reports}
  assert len(seen) == len(reports) and {r.accumulate for r in reports} == {1}
  # Two heads: at most two devices share a sample.
  assert {m for m, _ in seen} == {
    (1, 8, 1, 1), (8, 1, 1, 1), (1, 4, 2, 1), (4, 1, 2, 1), (1, 4, 1, 2), (4, 1, 1, 2),
  }  # fmt: skip
  shown = table.comparison(reports)
  assert shown.row_count == len(reports)


def test_command(tmp_path):
  options = [
    'ttm_jax.plan', f'--config={tiny.ROOT}/configs/stage1_dit.py', '--topology=h100x16',
    f'--json={tmp_path}/plan.json',
  ]  # fmt: skip
  ended = cli.run(*options)
  assert ended.code == 0, ended.err
  for words in (
    'h100x16: 16 devices',
    'fsdp 16, remat full; batch 32',
    'Not included: temporaries',
  ):
    assert words in ended.out
  (found,) = json.loads((tmp_path / 'plan.json').read_text())
  assert found['fits'] and found['devices'] == 16 and found['mesh']['fsdp'] == 16
  assert found['memory']['total'] == sum(found['memory'][kind] for kind in table.KINDS)
  assert found['step_seconds'] == max(found['times'].values())
  assert found['days'] == pytest.approx(50_000 * found['step_seconds'] / 86_400)


def test_the_sampler_alone(tmp_path):
  options = [
    'ttm_jax.plan', f'--config={tiny.ROOT}/configs/stage2_dit.py', '--topology=h100x8', '--nostep',
    '--config.sample.count=1', '--config.mesh.tensor=4', f'--json={tmp_path}/plan.json',
  ]  # fmt: skip
  ended = cli.run(*options)
  assert ended.code == 0, ended.err
  assert 'fsdp 2 x tensor 4; 1 clip' in ended.out and 'Roofline of 50 steps' in ended.out
  (found,) = json.loads((tmp_path / 'plan.json').read_text())
  config = tiny.shipped('stage2_dit')
  # Three passes a step; the formulas omit what is computed once a pass.
  passes = found['steps'] * 3 * Run.make(config).objective.flops_per_sample / 3
  assert 1 <= found['costs']['flops'] * 8 / passes < 1.02
  # All but the small parameters, in float32, are split over all devices.
  assert 4 * 3.9e9 / 8 < found['parameters'] == found['total'] < 4 * 4.6e9 / 8
  assert found['fits'] and found['sampling_seconds'] == found['times']['compute']


def test_a_sampler_too_large(run):
  report = sampler_report.estimated(run, analytic.abstract_mesh((1, 8, 1, 1)), topology('h100x8'))
  assert report.fits
  needed = dataclasses.replace(report, temporaries=80e9)
  assert not needed.fits and needed.to_dict()['total'] == 80e9 + report.parameters


@pytest.mark.parametrize(
  'options, message',
  [
    (['--topology=h100x8', '--nostep', '--nosampler'], '--nostep plans the sampler alone'),
    (['--topology=h100x8', '--nostep', '--sweep'], 'leave out --sweep'),
    (['--topology=v9:4x4'], "error: topology 'v9:4x4' is unknown: use one of v4:2x2x1 to"),
    (
      ['--topology=h100x48', '--config.data.batch_size=50'],
      'config.data.batch_size 50 must be a multiple of 48: of config.train.accumulate 1 times the'
      ' 48 devices along mesh axes data and fsdp; nearest: 48 or 96',
    ),
    (
      ['--topology=h100x8', '--config.mesh.tensor=8'],
      '20 heads of attention do not divide over mesh axes sequence x tensor = 1 x 8: their product'
      ' must be 5 or 10',
    ),
    (
      ['--topology=h100x48', '--config.data.batch_size=48'],
      'mesh axis fsdp = 48 does not divide most parameters',
    ),
    (['--topology=h100x8', '--config.mesh.fsdp=5'], 'does not fit 8 devices'),
  ],
)
def test_invalid_input(options, message):
  ended = cli.run('ttm_jax.plan', f'--config={tiny.ROOT}/configs/stage2_dit.py', *options)
  assert ended.code == 2 and message in ended.err, ended.err


@pytest.mark.parametrize(
  ('kind', 'name'),
  [('TPU v5 lite', 'v5e'), ('TPU v5', 'v5p'), ('NVIDIA H100 80GB HBM3', 'h100'), ('cpu', None)],
)
def test_chip_of_a_device(kind, name):
  assert chip_of(kind) is (CHIPS[name] if name else None)
