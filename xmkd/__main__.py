"""`python -m xmkd`."""

from xmkd.cli import main

if __name__ == "__main__":
    main()
