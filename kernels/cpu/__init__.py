"""CPU kernels, compiled with numba on first use and cached on disk."""
