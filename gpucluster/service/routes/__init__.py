"""The endpoints, one file for each kind of thing; they parse, call, and answer."""

from __future__ import annotations
