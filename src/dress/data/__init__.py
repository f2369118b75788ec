"""Shards, their order, public sources, and the LightningDataModule that streams them."""
