"""Adapters: what a host reports to our policies, and what our decisions are to a host; optional packages are imported on use."""
