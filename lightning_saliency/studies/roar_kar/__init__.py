"""ROAR and KAR: networks retrained on masked images."""
