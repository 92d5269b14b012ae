"""`python -m consisti2v_cli` is `consisti2v`."""

from consisti2v_cli.commands import main

if __name__ == "__main__":
    main()
