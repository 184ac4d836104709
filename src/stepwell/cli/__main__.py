"""`python -m stepwell.cli`."""

from stepwell.cli import main

main()
