"""`python -m abruzzi`, where the command itself is not on the path."""

from abruzzi.cli import main

main()
