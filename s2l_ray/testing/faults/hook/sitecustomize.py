"""Python imports this in every process whose PYTHONPATH has this folder: a run's driver and all of its workers."""

import os

if os.environ.get("S2L_FAULT_PLAN"):
    import fault_points

    fault_points.install()
