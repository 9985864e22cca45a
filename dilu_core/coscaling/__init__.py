"""Run-time policies: pure, state in, state out."""
