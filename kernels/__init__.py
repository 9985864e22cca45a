"""Array in, array out: the compiled kernels. Knows nothing of the floors above."""
