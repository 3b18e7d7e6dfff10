"""What the server that worker processes are forked from imports. It must start no threads."""

import os
import warnings

os.environ |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}  # the same numbers on every machine

with warnings.catch_warnings(action="ignore"):  # of other projects, while they are imported
    # Both come with the first optimiser and take seconds.
    import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
    import torch._dynamo  # noqa: F401

    import distributed.export
    import distributed.train  # noqa: F401
