"""Faults on purpose: crash campaigns, simulated time, herds, zombies, broken files and checked histories."""
