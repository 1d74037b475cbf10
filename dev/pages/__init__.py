"""Looks at the pages in a real browser: Lighthouse's figures, and the README's pictures.

Each command runs on a platform of its own, filled with the seed and the demo.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from dev.platform import demo, up
from dev.platform.local_platform import Platform


@contextlib.contextmanager
def demo_site(root: Path) -> Iterator[str]:
    """The address of a site with products and the demo's month."""
    with (
        tempfile.TemporaryDirectory(prefix="alfa-") as data,
        Platform(root, Path(data), durable=False) as platform,
    ):
        up.load_seeds(root, platform)
        demo.fill(platform.state(), datetime.now(UTC))
        platform.cron("watch")  # publishes what /status shows
        yield platform.url
