"""`python -m ebmlib` is the program `ebmlib`, where that is not on the path."""

from ebmlib.commands import main

if __name__ == "__main__":
    main(prog_name="ebmlib")
