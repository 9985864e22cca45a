"""Static and online placement of instances on shared GPUs, with proven bounds."""
