"""What holds for all tests."""

import os

# torch's store looks up the names behind its clients' addresses. Where the name server does not answer, each look-up
# takes five seconds; this makes it one, in this process and those that it starts.
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")
