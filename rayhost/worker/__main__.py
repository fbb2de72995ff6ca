"""`python -m rayhost.worker MODEL CHANNEL PARENT`: started by the supervisor, never by hand.

MODEL is there for whoever reads `ps`; the model itself comes through the channel.
"""

import os
import sys

from rayhost.threads import ENVIRONMENT

os.environ.update({**ENVIRONMENT, **os.environ})  # before the libraries are loaded

from rayhost.worker.main import run

if __name__ == "__main__":
    run(sys.argv[2], int(sys.argv[3]))
