"""The lowest hashing cost, for fast tests."""

from att.config.settings import HashingCost

CHEAPEST = HashingCost(time_cost=1, memory_kib=8, parallelism=1)
