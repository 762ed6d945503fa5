"""`python -m hmt`: the command line."""

from hmt.cli import main

if __name__ == "__main__":
    main()
