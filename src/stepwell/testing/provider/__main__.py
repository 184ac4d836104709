"""`python -m stepwell.testing.provider`: the stand-in alone, answering by itself, until Ctrl+C."""

from __future__ import annotations

import argparse
import threading

from stepwell.testing.provider.server import Provider


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stepwell.testing.provider", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    with Provider(port=parser.parse_args().port) as provider:
        url = provider.url
        print(f"The stand-in listens at {url}. It wants no key, and answers by itself.")
        print(f"  OpenAI      {url}/v1\n  Anthropic   {url}\n  Gemini      {url}")
        print(f"  Grok        {url}/grok/v1\n  Azure       {url}\n  plain HTTP  {url}/http/echo")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main()
