"""What goes over the wire: requests and answers of the REST service, for it and its clients.

No web framework is needed to read or write them.
"""

from __future__ import annotations
