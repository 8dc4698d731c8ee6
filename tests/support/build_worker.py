"""A build in its own process, so that tests can kill it. Its argument is the request as JSON.

Not a test. `slow_s` makes each batch take that long; `limit_bytes` is the largest file that the process may write.
"""

import json
import resource
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from indexer.build.area import Area
from indexer.build.build import build_index
from indexer.build.request import BuildRequest, Encoders
from indexer.cli.terminal import ending_well
from retrieval.testing.fake import FakePhotoEncoder, FakeTileEncoder
from tile_cache.fetch.settings import FetchSettings


class SlowEncoder(FakeTileEncoder):
    slow_s = 0.0

    def encode(self, zoom, pixels):
        time.sleep(self.slow_s)
        return super().encode(zoom, pixels)


def main() -> None:
    options = json.loads(sys.argv[1])
    maps = SlowEncoder(contexts={int(z): m for z, m in options.pop("contexts", {}).items()})
    maps.slow_s = options.pop("slow_s", 0.0)
    if limit := options.pop("limit_bytes", None):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    for name in ("out", "cache"):
        if options.get(name):
            options[name] = Path(options[name])
    request = BuildRequest(
        zooms=tuple(options.pop("zooms")),
        area=Area(bbox=tuple(options.pop("bbox"))),
        fetch=FetchSettings(rate_per_s=1e6, attempts=3, backoff_s=0.05, flush_s=0.02, give_up_after=3, batch_tiles=8),
        **options,
    )
    print("ready", flush=True)
    with ending_well("the same command goes on from here"):
        report = build_index(request, encoders=Encoders(FakePhotoEncoder(), maps))
    print(json.dumps(report.to_json()))


if __name__ == "__main__":
    from typer import Exit

    try:
        main()
    except Exit as ended:
        sys.exit(ended.exit_code)
