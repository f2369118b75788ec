"""Asking a server: client, ledger, limits, forms, replay."""
