"""The mesh that the flag --mesh of a command asks for."""

import argparse

from jax.sharding import Mesh

from ttm_jax.inference.sampling_flags import mesh_sizes_of
from ttm_jax.parallel.mesh import make_mesh


def mesh_of(args: argparse.Namespace) -> Mesh | None:
  """Return the mesh of all devices that --mesh describes, or None without the flag.

  Raises:
    InputError: If the flag has another form, or its sizes do not multiply to the devices.
  """
  sizes = mesh_sizes_of(args)
  return None if sizes is None else make_mesh(sizes)
