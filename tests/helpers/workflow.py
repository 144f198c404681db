"""The published commands of the workflow, and who sends them as they are."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

_FILE = Path(__file__).parents[1] / "data" / "workflow.md"
_BLOCK = re.compile(r"^## (\w+)\n\n```(?:bash|json)\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
BLOCKS = dict(_BLOCK.findall(_FILE.read_text()))

TEXT_URI = "mixpeek://text_extractor@v1/text_embedding"
MEDIA_URI = "mixpeek://multimodal_extractor@v1/multimodal_embedding"


def fragment(name: str) -> dict:
    """Return a part of a definition."""
    return json.loads(BLOCKS[name])


class Caller:
    """Sends commands by curl, as a person would."""

    def __init__(self, url: str, key: str, namespace: str) -> None:
        own = {"MP_API_URL": url.rstrip("/"), "MP_API_KEY": key, "MP_NAMESPACE": namespace}
        self._environment = {**os.environ, **own, "no_proxy": "*"}

    def published(self, name: str, cluster_id: str = "", run_id: str = "") -> tuple[int, dict]:
        """Send a published command, with ids where it has examples of them."""
        command = BLOCKS[name].replace("{cluster_id}", cluster_id).replace("run_xyz789", run_id)
        return self._run(command)

    def send(self, method: str, path: str, body: object = None) -> tuple[int, dict]:
        """Send a request with the same headers."""
        command = (
            f'curl -sS -X {method} "$MP_API_URL{path}" -H "Authorization: Bearer $MP_API_KEY" '
            '-H "X-Namespace: $MP_NAMESPACE"'
        )
        if body is None:
            return self._run(command)
        return self._run(f'{command} -H "Content-Type: application/json" -d @-', json.dumps(body))

    def _run(self, command: str, content: str = "") -> tuple[int, dict]:
        done = subprocess.run(
            ["bash", "-c", f"{command} -w '\\n%{{http_code}}'"],
            env=self._environment,
            input=content,
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        text, _, status = done.stdout.rpartition("\n")
        if "\n" in text:
            return int(status), {"lines": [json.loads(line) for line in text.splitlines()]}
        return int(status), json.loads(text) if text else {}
