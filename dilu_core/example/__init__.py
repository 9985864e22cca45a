"""A workload that runs with nothing but this package; its README says where the numbers come from."""
