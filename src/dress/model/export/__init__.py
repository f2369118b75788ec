"""Trained models as folders that transformers, peft and vLLM load."""
