"""Masks inside a network, scale by scale and statistic by statistic."""
