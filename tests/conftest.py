"""What holds for all tests."""

import os
import signal

# torch's store looks up the names behind its clients' addresses. Where the name server does not answer, each look-up
# takes five seconds; this makes it one, in this process and those that it starts.
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")

# A shell that runs a job in the background makes it ignore Ctrl-C, and so all that it starts: not so here, where tests
# interrupt processes.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
