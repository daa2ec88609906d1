"""Run corpus → proxy → trajectories → clusters → subsets as a Ray job. In a clone that contains my.yaml:

    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
        python jobs/select_subset.py my.yaml selection.budgets=[0.05,0.11]

my.yaml needs `run_dir` and paths that all nodes can access (s3://… or gs://…). finetune_target.py trains its `target`.
Exit codes: 0 done, 1 failed, 2 refused before anything started (the log says why), 143 stopped (`ray job stop`). The
same command resumes where an earlier job ended; complete work is skipped.
"""

import sys

from s2l_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", "--select-only", *sys.argv[1:]]))
