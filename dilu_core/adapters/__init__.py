"""Adapters: what a host reports to our policies, and what our decisions are to it. Optional packages load on use."""
