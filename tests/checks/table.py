"""`python -m tests.checks.table`: run every script, print what the checks found, as Markdown."""

from tests.checks.documentation import table

if __name__ == "__main__":
    print(table())
