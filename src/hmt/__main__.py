"""`python -m hmt` and the script `hmt`: the command line."""

import signal

# Ctrl-C while the command line is being imported: nothing is at work yet, and Python would show where it was.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from hmt.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
