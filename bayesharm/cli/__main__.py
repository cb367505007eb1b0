"""``python -m bayesharm.cli``: the same as the command ``bayesharm``."""

from bayesharm.cli.app import main

if __name__ == "__main__":
    main()
