"""Print one variable of a MATLAB file as JSON; run as a script by `matlab.py`, since scipy can crash."""

import json
import resource
import sys

import numpy as np
from scipy.io import loadmat

MEMORY = 4 << 30  # bytes of address space


def main(path: str, variable: str) -> None:
    """Print {column: values}: the fields of a struct array, or the column "value" of another array."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    array = np.atleast_1d(loadmat(path, squeeze_me=True, variable_names=[variable])[variable])
    columns = {name: array[name] for name in array.dtype.names} if array.dtype.names else {"value": array}
    json.dump(columns, sys.stdout, default=lambda item: item.tolist())


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")
