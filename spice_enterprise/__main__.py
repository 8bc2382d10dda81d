"""The process: `spice-enterprise` and `python -m spice_enterprise`.

In: the command line.
Out: an exit code.
Refuses: nothing here.
Not here: the verbs (`cli.py`).
"""

from spice_enterprise.cli import app


def main() -> None:
    """Run the command line."""
    app(prog_name="spice-enterprise")


if __name__ == "__main__":
    main()
