"""Makes the distribution packages; see __main__.py."""
