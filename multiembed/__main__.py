"""`python -m multiembed`: the command line."""

from multiembed.cli import main

if __name__ == "__main__":
    main()
