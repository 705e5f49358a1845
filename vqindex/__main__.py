"""``python -m vqindex`` runs the command line."""

from vqindex_cli.start import main

if __name__ == "__main__":
    main()
