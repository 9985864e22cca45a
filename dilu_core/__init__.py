"""Fit, search, place and co-scale GPU quotas for deep-learning functions.

Every public name stands here and loads its module on first use, so that `import dilu_core` costs what numpy costs.
"""

from __future__ import annotations
