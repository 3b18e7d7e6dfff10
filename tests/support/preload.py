"""What the server that worker processes are forked from imports; it must start no threads."""

import os

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed  # noqa: E402, F401

import distributed.loop  # noqa: E402, F401
