"""Inspection: what a set of records holds, what is wrong with it, what leaks (`prepare.py task=inspect`)."""
