"""Locate a folder of pictures with a Tilebeam service: a line of JSON for each, in the order of their names.

    python batch_from_container.py http://service:8000 /photos > places.jsonl

Pictures are sent in batches of 32 and read as they are sent; answers are printed as they arrive, so a folder of any
size takes little memory. If the service is busy, a batch is sent again after the time that it names. Only Tilebeam's
client is needed (`pip install .`). The API key, if the service requires one, is read from TILEBEAM_API_KEY.
Exit code 0: all were located; 1: some were not, or the service did not answer; 2: wrong usage.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from service.errors import ClientError
from tilebeam import Client


def main() -> int:
    """Print a line for each picture; return the exit code."""
    parser = argparse.ArgumentParser(description="Locate a folder of pictures with a Tilebeam service.")
    parser.add_argument("url", help="address of the service, such as http://service:8000")
    parser.add_argument("folder", type=Path, help="a folder of pictures; subfolders are included")
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        parser.error(f"{arguments.folder} is not a folder")
    located, failed = 0, 0
    try:
        with Client(arguments.url, api_key=os.environ.get("TILEBEAM_API_KEY"), timeout_s=120) as client:
            for path, line in client.locate_folder(arguments.folder):
                entry: dict[str, Any] = {"file": str(path.relative_to(arguments.folder))}
                if answer := line.get("result"):
                    located += 1
                    entry |= {name: answer[name] for name in ("lat", "lon", "confidence", "calibrated", "elsewhere")}
                else:
                    failed += 1
                    entry["error"] = line["error"]["detail"]
                print(json.dumps(entry), flush=True)
    except ClientError as error:
        print(f"after {located + failed} pictures: {error}", file=sys.stderr)
        return 1
    print(f"{located} located, {failed} not", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
