"""The page admits one script, by its digest, and nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from ctvr_bench.bench.report import html


def test_the_policy_admits_the_pages_own_script_alone() -> None:
    folder = Path(html.__file__).parent / "templates"
    script, page = (folder / "sort.js").read_text(encoding="utf-8"), (folder / "report.html").read_text("utf-8")
    policy = html._policy(script)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy
    assert re.findall(r"<script[^>]*>.*?</script>", page, re.DOTALL) == ["<script>{{ script|safe }}</script>"]
    assert page.count("|safe") == 1
    assert not re.search(r"\son[a-z]+\s*=", page)
    assert page.index("Content-Security-Policy") < page.index("<title>")
