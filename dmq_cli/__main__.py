"""`python -m dmq_cli` is the command dmq: for torchrun, which starts modules."""

from dmq_cli.cli.app import main

if __name__ == "__main__":
    main()
