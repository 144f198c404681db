"""What starts executions by itself: at times, after events, and when a number says so."""

from __future__ import annotations
