"""The host link: a UART that reads and writes a core's registers and memory."""

from systolith_boards.link.arbiter import Arbiter
from systolith_boards.link.host_link import HostLink
from systolith_boards.link.master import LINK_ID

__all__ = ["LINK_ID", "Arbiter", "HostLink"]
