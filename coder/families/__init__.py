"""The families of models: for each, what is true of it alone."""
