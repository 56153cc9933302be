"""The server: one engine for many editors, by the interfaces that already have clients."""
