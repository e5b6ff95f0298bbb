"""The processes: a master that supervises, and workers that serve."""
