"""`python -m s2l_ray.cli`."""

import sys

from s2l_ray.cli import main

if __name__ == "__main__":
    sys.exit(main())
