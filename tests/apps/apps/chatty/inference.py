"""Prints and logs."""

import logging
import subprocess
import sys

from inferencesh import BaseApp, BaseAppInput, BaseAppOutput

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
print("imported")


class AppInput(BaseAppInput):
    text: str


class AppOutput(BaseAppOutput):
    pass


class App(BaseApp):
    async def run(self, input_data: AppInput, metadata) -> AppOutput:
        print("printed", input_data.text)
        sys.stdout.write("without an end")
        print("to stderr", file=sys.stderr)
        logging.info("logged %s", input_data.text)
        self.logger.info("by the given logger")
        metadata.log("by the metadata")
        subprocess.run([sys.executable, "-c", "print('by a child')"], check=True)
        return AppOutput()
