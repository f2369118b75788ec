"""A page in the browser: talk to a model, and say what is good and bad about its answers."""
