"""``python -m gpucluster``."""

from __future__ import annotations

from gpucluster.cli import main

if __name__ == "__main__":
    main()
