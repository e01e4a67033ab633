"""Serve the built book on this machine only, print its address and open it."""

import argparse
import http.server
import webbrowser
from functools import partial
from pathlib import Path

BOOK = Path(__file__).resolve().parents[1] / "_build" / "html"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """A file handler that does not print every request."""

    def log_message(self, *_args: object) -> None:
        """Print nothing."""


def start(port: int, folder: Path = BOOK) -> http.server.ThreadingHTTPServer:
    """Listen on the loopback address: at ``port``, or at a free one if it is taken."""
    handler = partial(QuietHandler, directory=str(folder))
    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError:
        return http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--no-browser", action="store_true", help="only print")
    args = parser.parse_args()
    if not (BOOK / "index.html").exists():
        raise SystemExit("There is no built book yet: run `make book`.")
    with start(args.port) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        print(f"The book is at {address} (Ctrl-C stops serving)", flush=True)
        if not args.no_browser:
            webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()
