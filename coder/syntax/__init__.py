"""The syntax of Python files as they are while being typed, broken ones included."""
