"""The diffusion engine: from a file with a hole to the text that fills it."""
