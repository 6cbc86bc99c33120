"""What ``make gpu-check`` measures on an NVIDIA GPU, and how it survives what goes wrong there.

``gpu_check.py``, one folder up, is the command. :mod:`~benchmarks.gpu.steps` runs its steps in processes of their own;
:mod:`~benchmarks.gpu.supervisor` watches the one that measures, :mod:`~benchmarks.gpu.worker`, which goes through the
table of :mod:`~benchmarks.gpu.plan` by :mod:`~benchmarks.gpu.measure`. All that needs CUDA is in
:mod:`~benchmarks.gpu.device`, so that the rest is tested on a CPU.
"""
