"""The built-in assignments."""
