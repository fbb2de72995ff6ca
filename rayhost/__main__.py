"""`python -m rayhost` is the `rayhost` command."""

from rayhost.cli.main import app

if __name__ == "__main__":
    app(prog_name="rayhost")
