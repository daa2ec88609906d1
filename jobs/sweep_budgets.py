"""Sweep budgets × selectors × seeds as a Ray job: one table, one curve, the smallest budget that is good enough.

    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
        python jobs/sweep_budgets.py my.yaml --find-smallest --within 0.01

The options are those of `s2l sweep`; the head needs the extra `sweep` (Optuna) and, for the pictures, `report`.
Exit codes: 0 done, 1 failed (or a trial failed), 2 refused before anything started (the log says why), 143 stopped
(`ray job stop`). The same command resumes where an earlier job ended; finished trials are not repeated.
"""

import sys

from s2l_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
