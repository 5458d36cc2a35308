"""``python -m att``, and the console script ``att-server``."""

import signal

# While the libraries are being imported Ctrl-C ends the process at once, without a traceback; ``main`` takes over then.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from att.cli.main import main  # noqa: E402 - after the line above, which is for it

if __name__ == "__main__":
    main()
