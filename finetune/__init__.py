"""Corpus, tokenizer and training of Talaria's own models."""
