"""`python -m ebmlib`: the command line where the program `ebmlib` is not on the path."""

from ebmlib.commands import main

if __name__ == "__main__":
    main(prog_name="ebmlib")
