"""Run everything, from the corpus to subsets and fine-tuned targets, as a Ray job. In a clone that contains my.yaml:

    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
        python jobs/run_all.py my.yaml

my.yaml needs `run_dir` and paths that all nodes can access (s3://… or gs://…). `s2l submit my.yaml` works anywhere.
Exit codes: 0 done, 1 failed, 2 refused before anything started (the log says why), 143 stopped (`ray job stop`). The
same command resumes where an earlier job ended; complete work is skipped.
"""

import sys

from s2l_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
