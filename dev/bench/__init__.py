"""Benchmarks: `python3 -m dev bench NAME` runs dev/bench/NAME.py's `main(arguments) -> status`.

Each prints its figures and stops by itself; none asserts a time.
"""

import importlib
import pkgutil
import sys


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def main(arguments: list[str]) -> int:
    known = names()
    if not arguments or arguments[0] not in known:
        print("usage: python3 -m dev bench NAME …   (--help tells more of each)\n")
        for name in known:
            about = importlib.import_module(f"dev.bench.{name}").__doc__ or ""
            print(f"  {name:12} {about.partition(chr(10))[0]}")
        return 0 if arguments in ([], ["--help"], ["-h"]) else 2
    status: int = importlib.import_module(f"dev.bench.{arguments[0]}").main(arguments[1:])
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
