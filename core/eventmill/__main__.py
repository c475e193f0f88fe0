"""python -m eventmill"""

from eventmill.cli.app import main

main()
