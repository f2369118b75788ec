"""What a user can put right."""


class ConfigError(ValueError):
    """A setting that does not exist or does not fit; the message names it."""
