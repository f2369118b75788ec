"""A model of ours behind the interface of OpenAI's servers."""
