"""Corpus → proxy → trajectories → clusters → subsets, as a Ray job. From a clone that holds my.yaml:

    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
        python jobs/select_subset.py my.yaml selection.budgets=[0.05,0.11]

my.yaml needs `run_dir` and paths that all nodes see (s3://… or gs://…). Its `target` is left to finetune_target.py.
Exit codes: 0 done, 1 failed, 2 refused before anything started (the log says why), 143 stopped (`ray job stop`). The
same command goes on where an earlier job ended; what is complete is skipped.
"""

import sys

from s2l_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", "--select-only", *sys.argv[1:]]))
