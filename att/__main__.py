"""``python -m att``, and the console script ``att-server``."""

import signal

# While libraries are imported, Ctrl-C ends the process at once, without a traceback. ``main`` changes that.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from att.cli.main import main  # noqa: E402 - the line above must come first

if __name__ == "__main__":
    main()
