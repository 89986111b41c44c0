"""Turn a configuration into that of a student distilled from a run of it.

A student of four steps needs 4 network passes for what takes its teacher up to 150 (50 steps, three
passes each with guidance). See `ttm_jax/training/distillation.py` for the methods.
"""

from ml_collections import ConfigDict


def distill(config: ConfigDict, method: str = 'dmd', steps: int = 4) -> ConfigDict:
  """Return the configuration of a student.

  Args:
    config: that of the teacher; `init_from` names its run.
    method: 'dmd' for few steps, 'guidance' for one pass a step.
    steps: sampling steps of the student; kept from the teacher for 'guidance'.
  """
  config.init_from = ''  # The run of the teacher; required.
  sample = config.sample
  config.distill = ConfigDict(
    {
      'method': method,  # 'dmd' for few steps, or 'guidance' for one pass a step.
      'visual_scale': sample.visual_scale,  # Guidance scale of the image, of the teacher.
      'text_scale': sample.text_scale,  # Guidance scale of the text, of the teacher.
      'rescale': sample.rescale,  # Guidance rescaling of the teacher.
      'visual_range': (),  # (low, high): scales of the image as inputs of the student; (): fixed.
      'text_range': (),  # (low, high): scales of the text as inputs of the student; (): fixed.
    }
  )
  sample.update({'visual_scale': 1.0, 'text_scale': 1.0, 'rescale': 0.0})
  if method == 'dmd':
    few_steps(config.process, steps)
  # Learning rate of the student relative to that of its critic, which must keep up.
  config.optimizer.student_rate = 0.2
  config.train.dropout = 0.0
  del config.train.exchanged_texts  # A student learns from its teacher, under the same texts.
  config.train.steps = 10_000
  return config


def distill_guidance(config: ConfigDict) -> ConfigDict:
  """Return the configuration of a student that takes the guidance scales as inputs.

  It samples in the steps of its teacher, with one pass a step instead of three.
  """
  scales = config.sample.to_dict()
  config = distill(config, 'guidance')
  config.distill.update({'visual_range': (1.0, 3.0), 'text_range': (1.0, 10.0)})
  # Scales by default.
  config.sample.update({name: scales[name] for name in ('visual_scale', 'text_scale')})
  config.optimizer.student_rate = 1.0  # There is no critic.
  return config


def distill_demo(config: ConfigDict) -> ConfigDict:
  """Return the configuration of a student of one of the demo's networks, in few steps."""
  config = distill(config)
  # Teacher and critic compare samples at all noise levels; `time_power` is the U-Net's.
  config.process.update({'time_power': 1.0} if 'time_power' in config.process else {'mean': -1.0})
  return briefly(config)


def distill_demo_guidance(config: ConfigDict) -> ConfigDict:
  """Return that of a student that takes guidance scales as inputs; its teacher needs dropout."""
  config = distill_guidance(config)
  config.distill.update({'visual_range': (1.0, 3.0), 'text_range': (1.0, 4.0)})
  config.sample.update({'visual_scale': 1.5, 'text_scale': 2.0})
  return briefly(config)


def briefly(config: ConfigDict) -> ConfigDict:
  """Return the configuration of a student, trained by AdamW for minutes."""
  config.optimizer.update({'learning_rate': 2e-4, 'muon_rate': 0.0, 'schedule': 'constant'})
  config.data.batch_size = 8
  config.train.steps = 1_200
  return config


def few_steps(process: ConfigDict, steps: int) -> None:
  """Set the sampling steps of a process, evenly spaced in time."""
  process.steps = steps
  if 'schedule' in process:  # Flow matching; the U-Net's steps are evenly spaced already.
    even = steps % 2 == 0
    process.update(
      {
        'solver': 'euler',
        'schedule': 'linear_quadratic' if even else 'shifted',
        'emulated_steps': steps if even else steps + 1,
      }
    )
