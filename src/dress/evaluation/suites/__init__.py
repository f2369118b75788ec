"""Suites: data + generation + metrics; each ends as a table, `suite.json` and `outcomes.jsonl`."""
