"""CUDA kernels: C++ sources (`*.cu`) launched through CuPy, and numba-cuda kernels where no warp primitive is needed.

Importing a module of this package touches neither CuPy nor a driver; both are loaded when a kernel first runs.
"""
