"""What `bench/profile_gpu.py` is made of: the order of measurement, models, SM shares, timing, files, fits."""
