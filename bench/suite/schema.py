"""The JSON schema of suite files, so that editors complete and check them."""

from __future__ import annotations

import json

from ctvr_bench.bench.suite.config import SuiteConfig


def suite_schema() -> str:
    """Of SuiteConfig as a suite file writes it: `store` may be left out, or be several `stores`.

    >>> '"stores"' in suite_schema()
    True
    """
    schema = SuiteConfig.model_json_schema()
    store = schema["properties"]["store"] | {"description": "a file, or a world as moving-shapes:0"}
    stores = {"type": "array", "items": {"type": "string"}, "description": "one suite for each"}
    methods = schema["properties"]["methods"]["items"]
    bare = {"anyOf": [{"type": "string"}, methods]}  # a name, or a table of name and set
    schema["properties"] |= {"store": store, "stores": stores}
    schema["properties"]["methods"] = schema["properties"]["methods"] | {"items": bare}
    schema["required"] = [name for name in schema.get("required", []) if name != "store"]
    schema["title"] = "A suite of ctvr-bench"
    return json.dumps(schema, indent=1) + "\n"
