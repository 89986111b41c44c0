"""Through-The-Mask in JAX: image-to-video by mask-based motion trajectories (arXiv 2501.03059)."""
