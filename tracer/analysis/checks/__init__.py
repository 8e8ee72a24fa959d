"""What is wrong, or worth a note: rules over ledgers and graphs, one function each, in a table."""
