"""What the service knows: records in SQLite or PostgreSQL, behind one port."""

from __future__ import annotations
