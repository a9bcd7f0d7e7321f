"""Hook of the site: what lies beside docs/ is no page of it, so links there become the names of the files."""

from __future__ import annotations

import posixpath
import re
from typing import Any

_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>(?:\.\./)+[^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Put `text (path in the repository)` for each link that leads out of docs/."""

    def replace(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), link["target"]))
        return f"{link['text']} (`{target.removeprefix('../')}`)" if target.startswith("../") else link[0]

    return _LINK.sub(replace, markdown)
