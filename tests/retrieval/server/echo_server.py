"""Run as a program: serves an `Echo` on a free port and prints the URL. Argument: seconds to drain."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from a2tgpo.retrieval.server.app import make_app
from a2tgpo.retrieval.server.limits import ServerLimits
from a2tgpo.retrieval.server.serve_command import serve
from tests.retrieval.server.parts import Echo

if __name__ == "__main__":
    app = make_app(Echo(), ServerLimits(max_batch=4), {"corpus_sha256": "echo"})
    serve(app, "127.0.0.1", 0, int(sys.argv[1]), lambda url: print(url, flush=True))
    print("stopped", flush=True)
