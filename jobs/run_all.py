"""The whole way, corpus → subsets → fine-tuned targets, as a Ray job. From a clone that holds my.yaml:

    ray job submit --address http://127.0.0.1:8265 --working-dir . -- \
        python jobs/run_all.py my.yaml

my.yaml needs `run_dir` and paths that all nodes see (s3://… or gs://…). `s2l submit my.yaml` does this from any folder.
Exit codes: 0 done, 1 failed, 2 refused before anything started (the log says why), 143 stopped (`ray job stop`). The
same command goes on where an earlier job ended; what is complete is skipped.
"""

import sys

from s2l_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
