"""Pixel-wise similarity of two videos: PSNR and SSIM, one number per video."""

import numpy as np

from ttm_jax.errors import InputError

PEAK = 255.0
WINDOW = 11
SIGMA = 1.5


def psnr(a: np.ndarray, b: np.ndarray) -> float:
  """Return the peak signal-to-noise ratio from the mean squared error over the whole clip.

  The error is averaged over all frames, pixels and channels before the logarithm. Otherwise one
  exact frame, such as the input image, would make the mean infinite. Some tools average the PSNR of
  the frames instead. That number is never smaller; compute it as the mean of `psnr` over one-frame
  clips.

  Args:
    a, b: uint8 [T, H, W, 3].

  Returns:
    PSNR in dB, at least 0; infinity if the clips are equal.

  Raises:
    InputError: the videos are not uint8 [T, H, W, 3] of one shape.
  """
  a, b = _pair(a, b)
  error = np.mean([np.mean((x.astype(float) - y) ** 2) for x, y in zip(a, b, strict=True)])
  return float(10 * np.log10(PEAK**2 / error)) if error else float('inf')


def ssim(a: np.ndarray, b: np.ndarray) -> float:
  """Return the structural similarity (Wang et al. 2004, equation 13).

  SSIM is computed per frame and color channel, with a Gaussian window of 11x11 pixels and sigma 1.5
  at all positions where it fits entirely. The result is the mean over positions, channels and
  frames. K1 = 0.01, K2 = 0.03 and biased variances, as in the authors' code.

  Args:
    a, b: uint8 [T, H, W, 3], H and W at least 11.

  Returns:
    SSIM, -1..1; 1 if the clips are equal.

  Raises:
    InputError: the videos are not uint8 [T, H, W, 3] of one shape, or are smaller than the window.
  """
  a, b = _pair(a, b)
  if min(a.shape[1:3]) < WINDOW:
    raise InputError(
      f'SSIM needs frames of at least {WINDOW}x{WINDOW} pixels, got {a.shape[1]}x{a.shape[2]}'
    )
  c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
  # One frame at a time: float64 copies of a long clip at full resolution would not fit in memory.
  return float(np.mean([_frame_ssim(x, y, c1, c2) for x, y in zip(a, b, strict=True)]))


def _frame_ssim(a: np.ndarray, b: np.ndarray, c1: float, c2: float) -> float:
  # One color channel at a time, so that the maps stay in the cache of the processor.
  pairs = zip(np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0), strict=True)
  return float(np.mean([_plane_ssim(x, y, c1, c2) for x, y in pairs]))


def _plane_ssim(a: np.ndarray, b: np.ndarray, c1: float, c2: float) -> float:
  a, b = a.astype(np.float64, order='C'), b.astype(np.float64, order='C')
  mean_a, mean_b = _blur(a), _blur(b)
  var_a = _blur(a * a) - mean_a**2
  var_b = _blur(b * b) - mean_b**2
  covariance = _blur(a * b) - mean_a * mean_b
  similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
  similarity /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
  return float(similarity.mean())


def _blur(plane: np.ndarray) -> np.ndarray:
  """Return the Gaussian-weighted means [H - 10, W - 10] of a plane [H, W]."""
  offsets = np.arange(WINDOW) - WINDOW // 2
  weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
  weights /= weights.sum()
  height, width = np.subtract(plane.shape, WINDOW - 1)
  lines = weights[0] * plane[:height]
  for i, weight in enumerate(weights[1:], 1):
    lines += weight * plane[i : i + height]
  means = weights[0] * lines[:, :width]
  for i, weight in enumerate(weights[1:], 1):
    means += weight * lines[:, i : i + width]
  return means


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  a, b = np.asarray(a), np.asarray(b)
  for video in (a, b):
    if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or not video.size:
      raise InputError(
        f'a video to compare must be uint8 [T, H, W, 3], got {video.dtype} {video.shape}'
      )
  if a.shape != b.shape:
    raise InputError(f'videos to compare must have one shape, got {a.shape} and {b.shape}')
  return a, b
