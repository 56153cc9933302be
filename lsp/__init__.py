"""The language server that brings the engine to editors."""
