"""Costs that would slow tests down."""

from in_process import run_here  # noqa: F401 - a fixture of many

from att.config.settings import HashingCost

CHEAPEST = HashingCost(time_cost=1, memory_kib=8, parallelism=1)
