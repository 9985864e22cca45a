"""Anything that searches and stops. `planner.plan` is the table of contents."""
