"""Puts the pieces together; the only folder that knows them all.

`server.py` starts and stops, `settings.py` says what can be set and refuses what cannot work, `listening.py` binds the
port, `performers.py` sends each call to the transport of its service.
"""

from stepwell.server.server import Server, serve, spare_collector
from stepwell.server.settings import ServerSettings

__all__ = ["Server", "ServerSettings", "serve", "spare_collector"]
