"""``python -m cli`` is ``cdlm``."""

from cli.main import main

if __name__ == "__main__":
    main()
