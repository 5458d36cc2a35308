"""Costs that would slow tests down."""

from att.config.settings import HashingCost

CHEAPEST = HashingCost(time_cost=1, memory_kib=8, parallelism=1)
