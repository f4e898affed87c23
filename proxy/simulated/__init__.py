"""A provider that needs no network, for the first run, tests and measurements; it knows nothing of lessons."""

from proxy.simulated.dialects import DIALECTS
from proxy.simulated.faults import FAULTS
from proxy.simulated.options import Choices, Options
from proxy.simulated.provider import Provider, create_provider, run
from proxy.simulated.stats import Recorded, Stats

__all__ = ["DIALECTS", "FAULTS", "Choices", "Options", "Provider", "Recorded", "Stats", "create_provider", "run"]
