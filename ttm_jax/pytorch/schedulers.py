"""The noise processes as diffusers schedulers: flow matching, and DDIM with zero terminal SNR.

Neither draws noise, so the initial noise determines the video. Tables are computed in float64 and
stored in float32. `step` computes in float32, whatever the dtype of the network.
"""

import dataclasses

import numpy as np
import torch
from diffusers import (
  ConfigMixin,
  DDIMScheduler,
  FlowMatchEulerDiscreteScheduler,
  SchedulerMixin,
  UniPCMultistepScheduler,
)
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput

from .multistep import SOLVERS as MULTISTEP
from .multistep import Multistep

PREDICTIONS = ('velocity', 'data', 'flow')
SCHEDULES = ('linear_quadratic', 'shifted')
SOLVERS = ('euler', *MULTISTEP)
DIFFUSION_SOLVERS = ('ddim', *MULTISTEP)


@dataclasses.dataclass
class StepOutput(BaseOutput):
  """The result of a step.

  Attributes:
    prev_sample: float32 latents at the next time of the schedule, closer to the data.
  """

  prev_sample: torch.Tensor


class FlowMatchingScheduler(SchedulerMixin, ConfigMixin):
  """Steps along the straight path from noise (t = 0) to data (t = 1), like the JAX process.

  The path is x_t = t x + (1 - (1 - sigma_min) t) noise (Lipman et al. 2023). `timesteps` are the
  times as the network takes them: 1000 (1 - t), falling from 1000 at noise.

  Args:
    emulated_steps: number of steps of the linear schedule that the first half of the steps follows,
      see `linear_quadratic`.
    sigma_min: standard deviation of the noise that is left at t = 1.
    prediction_type: prediction of the network: 'velocity' (data - noise), 'data', or 'flow' (noise
      - data).
    shift: of the shifted schedule.
    schedule: 'linear_quadratic', or 'shifted': that of `FlowMatchEulerDiscreteScheduler` or
      `UniPCMultistepScheduler`.
    solver: 'euler', or one of order 2, whose steps must be taken in order: 'unipc' (on the shifted
      schedule as `UniPCMultistepScheduler`) or 'dpmpp'.

  Raises:
    ValueError: if a value is unknown or out of range.
  """

  order = 1

  @register_to_config
  def __init__(
    self,
    emulated_steps: int = 250,
    sigma_min: float = 1e-5,
    prediction_type: str = 'velocity',
    shift: float = 1.0,
    schedule: str = 'linear_quadratic',
    solver: str = 'euler',
  ):
    for name, value, known in (
      ('prediction_type', prediction_type, PREDICTIONS),
      ('schedule', schedule, SCHEDULES),
      ('solver', solver, SOLVERS),
    ):
      if value not in known:
        raise ValueError(f'{name} must be one of {known}, got {value!r}')
    if not 0 <= sigma_min < 1:
      raise ValueError(f'sigma_min must be 0 to below 1, got {sigma_min}')
    if not 0 < shift <= 100:
      raise ValueError(f'shift must be above 0 and at most 100, got {shift}')
    self.init_noise_sigma = 1.0
    self._multistep: Multistep | None = None

  def set_timesteps(self, num_inference_steps: int, device=None) -> None:
    """Set `times`, `timesteps` and `num_inference_steps` for sampling.

    Args:
      num_inference_steps: number of steps: even and at most `emulated_steps` for the
        linear-quadratic schedule, 1 to 1000 for the shifted one.
      device: of `timesteps`.

    Raises:
      ValueError: if the number is out of range.
    """
    steps, shifted = num_inference_steps, self.config.schedule == 'shifted'
    if shifted and not 0 < steps <= 1000:
      raise ValueError(f'the number of steps must be 1 to 1000, got {steps}')
    self.num_inference_steps = steps
    if self.config.solver in MULTISTEP:
      self._set_multistep(steps, device)
      return
    if shifted:
      theirs = FlowMatchEulerDiscreteScheduler(shift=self.config.shift)
      theirs.set_timesteps(steps)
      self.times = 1 - theirs.sigmas.numpy()
    else:
      self.times = linear_quadratic(steps, self.config.emulated_steps).astype(np.float32)
    self.timesteps = torch.from_numpy(np.float32(1000) * (1 - self.times[:-1])).to(device)

  def _set_multistep(self, steps: int, device) -> None:
    """Set `times` and `timesteps` for a multistep solver."""
    if self.config.schedule == 'shifted':
      theirs = UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=self.config.shift)
      theirs.set_timesteps(steps, device)
      spreads, self.timesteps = theirs.sigmas.numpy().astype(np.float64), theirs.timesteps
      self.times = 1 - spreads
    else:
      self.times = linear_quadratic(steps, self.config.emulated_steps)
      spreads = 1 - (1 - self.config.sigma_min) * self.times
      levels = np.float32(1000) * (1 - self.times[:-1]).astype(np.float32)
      self.timesteps = torch.from_numpy(levels).to(device)
    self._multistep = Multistep(self.config.solver, self.times, spreads)

  def scale_model_input(self, sample: torch.Tensor, timestep=None) -> torch.Tensor:
    """Return the sample unchanged; diffusers requires this method."""
    return sample

  def step(
    self, model_output: torch.Tensor, timestep, sample: torch.Tensor, return_dict: bool = True
  ) -> StepOutput | tuple[torch.Tensor]:
    """Take one step towards the data.

    Args:
      model_output: prediction of the network for `sample`: velocity, data or flow.
      timestep: the current timestep, one of `timesteps`.
      sample: latents at this timestep.
      return_dict: whether to return a `StepOutput` or a tuple.
    """
    kind, x, prediction = self.config.prediction_type, sample.float(), model_output.float()
    if self._multistep is not None:
      data, keep = prediction, 1 - self.config.sigma_min
      if kind != 'data':
        data = keep * x + self._multistep.level[1] * (-prediction if kind == 'flow' else prediction)
      x = self._multistep.step(data, x)
      return StepOutput(x) if return_dict else (x,)
    index = _index(self.timesteps, timestep)
    t, size = float(self.times[index]), float(self.times[index + 1] - self.times[index])
    if kind == 'data':
      keep = 1 - self.config.sigma_min
      noise = (x - t * prediction) / (1 - keep * t)
      prediction = prediction - keep * noise
    x = x - size * prediction if kind == 'flow' else x + size * prediction
    return StepOutput(x) if return_dict else (x,)

  def add_noise(
    self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
  ) -> torch.Tensor:
    """Return data with noise at the given timesteps.

    Args:
      original_samples: data, float [B, ...].
      noise: standard normal noise, like the data.
      timesteps: [B], 1000 at noise and 0 at data.
    """
    t = (1 - timesteps.float() / 1000).reshape(-1, *[1] * (original_samples.ndim - 1))
    t = t.to(original_samples.device)
    return t * original_samples + (1 - (1 - self.config.sigma_min) * t) * noise


class ZeroSNRScheduler(DDIMScheduler):
  """`DDIMScheduler` with zero terminal signal-to-noise ratio, for any number of steps.

  The configuration is that of `DDIMScheduler` with `rescale_betas_zero_snr`,
  `timestep_spacing='trailing'` and `prediction_type` 'v_prediction' or 'sample'. Other diffusers
  schedulers can be built from it.

  `DDIMScheduler` steps to a time that differs from the next timestep if the training steps are not
  a multiple of the sampling steps. Here each step ends at the next timestep, and the last step ends
  at the data. The further argument `solver` is 'ddim', or one of order 2, whose steps must be taken
  in order: 'unipc' or 'dpmpp'.

  Raises:
    ValueError: if an argument differs from the supported value, or the betas are invalid.
  """

  @register_to_config
  def __init__(
    self,
    num_train_timesteps: int = 1000,
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    beta_schedule: str = 'linear',
    prediction_type: str = 'v_prediction',
    timestep_spacing: str = 'trailing',
    rescale_betas_zero_snr: bool = True,
    clip_sample: bool = False,
    set_alpha_to_one: bool = True,
    steps_offset: int = 0,
    thresholding: bool = False,
    solver: str = 'ddim',
  ):
    if solver not in DIFFUSION_SOLVERS:
      raise ValueError(f'solver must be one of {DIFFUSION_SOLVERS}, got {solver!r}')
    for name, value, needed in (
      ('timestep_spacing', timestep_spacing, 'trailing'),
      ('rescale_betas_zero_snr', rescale_betas_zero_snr, True),
      ('clip_sample', clip_sample, False),
      ('set_alpha_to_one', set_alpha_to_one, True),
      ('steps_offset', steps_offset, 0),
      ('thresholding', thresholding, False),
    ):
      if value != needed:
        raise ValueError(
          f'{name} must be {needed!r}, got {value!r}: take another scheduler of diffusers for that'
        )
    if prediction_type not in ('v_prediction', 'sample'):
      raise ValueError(
        f"prediction_type must be 'v_prediction' or 'sample', got {prediction_type!r}"
      )
    # Without these limits no step adds noise, or the noise level that a data prediction is divided
    # by is 0.
    least = 0 if prediction_type == 'v_prediction' else np.nextafter(0, 1)
    if not (least <= beta_start < 1 and 0 < beta_end < 1 and num_train_timesteps > 1):
      raise ValueError(
        'beta_start and beta_end must lie between 0 and 1 and num_train_timesteps be 2 or more, got'
        f' {beta_start}, {beta_end} and {num_train_timesteps}'
      )
    if beta_schedule == 'linear':
      betas = np.linspace(beta_start, beta_end, num_train_timesteps)
    elif beta_schedule == 'scaled_linear':
      betas = np.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps) ** 2
    else:
      raise ValueError(f"beta_schedule must be 'linear' or 'scaled_linear', got {beta_schedule!r}")
    root = np.sqrt(np.cumprod(1 - betas))
    # Shift and scale to end at 0 and keep the first value (Lin et al. 2024, algorithm 1).
    self._alpha_bars = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    self.alphas_cumprod = torch.from_numpy(self._alpha_bars).float()
    alphas = np.append(self._alpha_bars[:1], self._alpha_bars[1:] / self._alpha_bars[:-1])
    self.alphas, self.betas = (torch.from_numpy(x).float() for x in (alphas, 1 - alphas))
    self.final_alpha_cumprod = torch.tensor(1.0)
    self.init_noise_sigma = 1.0
    self.num_inference_steps: int | None = None
    self._multistep: Multistep | None = None
    self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)

  def set_timesteps(self, num_inference_steps: int, device=None) -> None:
    """Set `timesteps` for sampling: evenly spaced training steps, from the last one down.

    Args:
      num_inference_steps: number of steps, 1 to `num_train_timesteps`.
      device: of `timesteps`.

    Raises:
      ValueError: if the number is out of range.
    """
    steps, train = num_inference_steps, self.config.num_train_timesteps
    if not 0 < steps <= train:
      raise ValueError(f'the number of steps must be 1 to {train}, got {steps}')
    self.num_inference_steps = steps
    chosen = np.round(np.arange(steps, 0, -1) * (train / steps)).astype(np.int64) - 1
    self.timesteps = torch.from_numpy(chosen).to(device)
    if self.config.solver in MULTISTEP:
      levels = np.append(self._alpha_bars[chosen], 1.0)
      self._multistep = Multistep(self.config.solver, np.sqrt(levels), np.sqrt(1 - levels))

  def step(
    self, model_output: torch.Tensor, timestep, sample: torch.Tensor, return_dict: bool = True
  ) -> StepOutput | tuple[torch.Tensor]:
    """Take one step: that of DDIM without new noise (eta = 0), or of the multistep solver.

    Args:
      model_output: prediction of the network for `sample`, v or data.
      timestep: the current timestep, one of `timesteps`.
      sample: latents at this timestep.
      return_dict: whether to return a `StepOutput` or a tuple.
    """
    if self._multistep is not None:
      x, data = sample.float(), model_output.float()
      if self.config.prediction_type != 'sample':
        signal, spread = self._multistep.level
        data = signal * x - spread * data
      x = self._multistep.step(data, x)
      return StepOutput(x) if return_dict else (x,)
    index = _index(self.timesteps, timestep)
    here = self._alpha_bars[int(self.timesteps[index])]
    last = index + 1 == len(self.timesteps)
    there = 1.0 if last else self._alpha_bars[int(self.timesteps[index + 1])]
    signal, spread, next_signal, next_spread = (
      float(np.float32(np.sqrt(a))) for a in (here, 1 - here, there, 1 - there)
    )
    x, predicted = sample.float(), model_output.float()
    if self.config.prediction_type == 'sample':
      data, noise = predicted, (x - signal * predicted) / spread
    else:
      data, noise = signal * x - spread * predicted, signal * predicted + spread * x
    x = next_signal * data + next_spread * noise
    return StepOutput(x) if return_dict else (x,)


def linear_quadratic(steps: int, emulated_steps: int) -> np.ndarray:
  """Return the linear-quadratic schedule of Movie Gen (section on efficient inference).

  The first half of the steps follows a linear schedule of `emulated_steps` steps. The second half
  covers the rest quadratically, with the same slope where the halves meet.

  Args:
    steps: number of steps, even.
    emulated_steps: number of steps of the linear schedule.

  Returns:
    Times float64 [steps + 1], increasing from 0 (noise) to 1 (data).

  Raises:
    ValueError: if steps is odd, below 1 or above emulated_steps.
  """
  if steps % 2 or not 0 < steps <= emulated_steps:
    raise ValueError(f'the number of steps must be even and at most {emulated_steps}, got {steps}')
  half = steps // 2
  linear = np.arange(half + 1) / emulated_steps
  j = np.arange(1, half + 1)
  quadratic = linear[-1] + j / emulated_steps + (1 - steps / emulated_steps) * (j / half) ** 2
  return np.concatenate([linear, quadratic])


def _index(timesteps: torch.Tensor, timestep) -> int:
  """Return the index of the closest timestep of the schedule."""
  return int((timesteps.cpu() - float(timestep)).abs().argmin())
