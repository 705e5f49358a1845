"""The ``vqindex`` command."""
