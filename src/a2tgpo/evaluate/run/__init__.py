"""Evaluations of a policy on benchmarks: settings, kept answers, tables."""
