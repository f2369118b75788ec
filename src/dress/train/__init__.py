"""Stages and their curriculum: module, data module, callbacks, devices."""
