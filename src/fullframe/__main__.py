"""``python -m fullframe`` is the ``fullframe`` command."""

from fullframe.cli.main import run

if __name__ == "__main__":
    run()
