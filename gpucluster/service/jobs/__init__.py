"""Work in processes of its own: a server that dies leaves nothing half done, only undone."""

from __future__ import annotations
