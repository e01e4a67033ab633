"""The command line `ebmlib`: one file for each command (chapter 14)."""
