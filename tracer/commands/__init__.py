"""The commands of the command line, one small module each: its options, and what it does."""
