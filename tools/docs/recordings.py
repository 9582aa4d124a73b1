"""Recordings of a terminal on a page. A hook of MkDocs.

A link to a `.cast` file that is a paragraph of its own becomes a player, with the recorded text below it: for readers without
scripts, and for those who do not see the player. The recording is in the page itself, for a page that is opened as a file may not
fetch another file. The player is loaded only where there is a recording.
"""

import json
import re
from html import escape
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

LINK = re.compile(r'<p><a href="([^"]+\.cast)">(.*?)</a></p>')
STYLE = "assets/stylesheets/asciinema-player.css"
SCRIPTS = ("assets/javascripts/asciinema-player.min.js", "assets/javascripts/recordings.js")


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    def player(found: re.Match[str]) -> str:
        address, title = found.groups()
        (source,) = (file for file in files if get_relative_url(file.url, page.url) == address)
        return figure(Path(source.abs_src_path or ""), title, address)

    with_players, count = LINK.subn(player, html)
    return with_players + loaded(page) if count else html


def figure(cast: Path, title: str, address: str) -> str:
    recording = cast.read_text()
    # A script's text ends at the first `</`, wherever it stands.
    data = recording.replace("</", "<\\/")
    text = "".join(text for _, _, text in map(json.loads, recording.splitlines()[1:])).replace("\r\n", "\n")
    return f"""<figure class="recording">
<div class="recording-player"></div>
<script type="application/x-asciicast">{data}</script>
<figcaption><a href="{address}">{title}</a></figcaption>
</figure>
<details data-search-exclude><summary>The recording as text</summary><pre><code>{escape(text)}</code></pre></details>
"""


def loaded(page: Page) -> str:
    style = f'<link rel="stylesheet" href="{get_relative_url(STYLE, page.url)}">'
    scripts = [f'<script defer src="{get_relative_url(script, page.url)}"></script>' for script in SCRIPTS]
    return "\n".join([style, *scripts])
