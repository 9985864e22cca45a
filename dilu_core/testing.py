"""Tests for authors of policies and hosts: subclass, say what is under test, run with pytest or unittest.

    from dilu_core.testing import PolicyConformance

    class TestMyPolicy(PolicyConformance):
        def make_policy(self):
            return MyPolicy(target=0.7)

`PolicyConformance` is for horizontal policies (`dilu_core.coscaling.policy.Policy`), `VerticalConformance` for vertical
ones, `HostConformance` for adapters between a serving system and a policy. Each test is one promise, and its failure
says what was asked and what was answered. The tests need no pytest, run on their own data (no randomness but a seed),
and take seconds. With unittest, inherit from both: `class TestMyPolicy(PolicyConformance, unittest.TestCase)`.

`SimulatedHost` is a host in memory: it passes `HostConformance`, and the tests of policies run on it.
"""

from __future__ import annotations

from dilu_core.host_conformance import HostConformance
from dilu_core.policy_conformance import GARBAGE, PolicyConformance
from dilu_core.simulated_host import SimulatedHost
from dilu_core.vertical_conformance import VerticalConformance

__all__ = ["GARBAGE", "HostConformance", "PolicyConformance", "SimulatedHost", "VerticalConformance"]
