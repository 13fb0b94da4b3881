"""python -m xmsim: the same as the xmsim command."""

from xmsim.cli import main

main()
