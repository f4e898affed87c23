"""What is learned of models, apps and call sites from the calls and batches that went by: pure, bounded, `now` an argument."""

from proxy.sites.learned import Sites
from proxy.sites.standing import BatchResult
from proxy.sites.standings import Rest, Rested, Resumed

__all__ = ["BatchResult", "Rest", "Rested", "Resumed", "Sites"]
