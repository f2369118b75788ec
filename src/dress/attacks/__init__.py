"""Requests that would do harm, written about images, and what is left of them once they are judged."""
