"""Dtypes of exported weights, by their names in --dtype."""

import ml_dtypes
import numpy as np

DTYPES = {'bf16': np.dtype(ml_dtypes.bfloat16), 'fp32': np.dtype(np.float32)}
