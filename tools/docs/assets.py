"""What the pages load, all of it from the site itself: it works without a network, and tells nobody who reads it. A hook of MkDocs.

The theme would load two scripts from elsewhere: the one that draws diagrams, and one for browsers of long ago. The first is put
beside the pages, and is still loaded only where there is a diagram. So is the player, where there is a recording.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
MODULES = ROOT / ".cache/docs-node/node_modules"
ASSETS = {
    "assets/extra.css": ROOT / "tools/docs/extra.css",
    "assets/favicon.svg": ROOT / "tools/docs/favicon.svg",
    "assets/iframe-worker.js": MODULES / "iframe-worker/shim/index.js",
    "assets/javascripts/asciinema-player.min.js": MODULES / "asciinema-player/dist/bundle/asciinema-player.min.js",
    "assets/javascripts/mermaid.min.js": MODULES / "mermaid/dist/mermaid.min.js",
    "assets/javascripts/recordings.js": ROOT / "tools/docs/recordings.js",
    "assets/stylesheets/asciinema-player.css": MODULES / "asciinema-player/dist/bundle/asciinema-player.css",
}

BESIDE = """document.querySelector('script[src*="javascripts/bundle."]').src.replace(/bundle[^/]*$/,"mermaid.min.js")"""
LOADED = {
    '"https://unpkg.com/mermaid@11/dist/mermaid.min.js"': BESIDE,
    '"https://unpkg.com/resize-observer-polyfill"': '"data:text/javascript,"',
}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    for name, source in ASSETS.items():
        files.append(File.generated(config, name, abs_src_path=str(source)))
    return files


def on_post_build(*, config: MkDocsConfig) -> None:
    (bundle,) = Path(config.site_dir).glob("assets/javascripts/bundle.*.min.js")
    text = bundle.read_text()
    for address, instead in LOADED.items():
        if (count := text.count(address)) != 1:
            raise PluginError(f"{bundle.name} names {address} {count} times, not once: see tools/docs/assets.py")
        text = text.replace(address, instead)
    bundle.write_text(text)
    # It belongs to the text before the changes.
    bundle.with_suffix(".js.map").unlink(missing_ok=True)
