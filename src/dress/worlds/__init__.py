"""Worlds: sources of images whose content is known exactly."""
