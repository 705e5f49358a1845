"""``python -m vqindex_cli`` runs the command line."""

from .main import main

if __name__ == "__main__":
    main()
