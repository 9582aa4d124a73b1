"""`tools/run-readme-samples` finds every sample of a page, in tabs and lists as well, and `tools/check-site` what a page loads."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from samples.fences import samples_in, samples_of  # noqa: E402 - found through the line above

PAGE = """\
# Title

=== "Python"

    ```python title="hold.py"
    with lock:

        work()
    ```

=== "Rust"

    ```rust,no_run
    fn main() {}
    ```

1. In a list:

   ```sh
   dlock ls
   ```

~~~text
no sample
~~~

```console
$ dlock ls
```

```js
await lock.acquire()
```
"""


def test_samples_are_found_in_tabs_and_lists_without_their_indentation() -> None:
    found = [(sample.place, sample.language, sample.text, sample.remarks) for sample in samples_in(PAGE, "page.md")]
    assert found == [
        ("page.md:5", "python", "with lock:\n\n    work()\n", ' title="hold.py"'),
        ("page.md:13", "rust", "fn main() {}\n", ",no_run"),
        ("page.md:19", "sh", "dlock ls\n", ""),
        ("page.md:31", "js", "await lock.acquire()\n", ""),
    ]


def test_samples_are_taken_from_every_page_but_adrs(tmp_path: Path) -> None:
    for name in ("README.md", "docs/one.md", "docs/how-to/two.md", "docs/adr/0001-three.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("```python\npass\n```\n\n```rust\nfn main() {}\n```\n")
    found = [f"{sample.place} {sample.language}" for sample in samples_of(tmp_path)]
    # Those of README.md in Rust are the engine's doctests.
    pages = ["docs/how-to/two.md:1 python", "docs/how-to/two.md:5 rust", "docs/one.md:1 python", "docs/one.md:5 rust"]
    assert found == ["README.md:1 python", *pages]


def check_site(site: Path) -> tuple[int, str]:
    ran = subprocess.run([sys.executable, ROOT / "tools/check-site", site], capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout


LOADED = {
    "a script": '<script src="https://elsewhere.example/x.js"></script>',
    "a script without a scheme": "<script src=//elsewhere.example/x.js></script>",
    "a style": '<link rel="stylesheet" href="https://elsewhere.example/x.css">',
    "a font": '<link rel="preload" as="font" href="https://elsewhere.example/x.woff2">',
    "a host to be spoken to": '<link rel="preconnect" href="https://elsewhere.example">',
    "an image": '<img src="https://elsewhere.example/x.png">',
    "an image of several": '<img srcset="a.png 1x, https://elsewhere.example/x.png 2x">',
    "a frame": '<iframe src="https://elsewhere.example/"></iframe>',
    "a style on the page": "<style>@import 'https://elsewhere.example/x.css';</style>",
    "a background": '<p style="background: url(https://elsewhere.example/x.png)">',
    "a script of a script": '<script>load("https://unpkg.com/mermaid@11/dist/mermaid.min.js")</script>',
}


@pytest.mark.parametrize("name", LOADED)
def test_what_a_page_loads_from_elsewhere_is_found(name: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(f"<html>\n{LOADED[name]}\n</html>")
    code, printed = check_site(tmp_path)
    assert code == 1
    assert printed.startswith("page.html:2: loads ")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.css", "@font-face {\n  src: url('https://elsewhere.example/x.woff2');\n}"),
        ("x.js", "//\nload('https://cdn.jsdelivr.net/npm/x')"),
        ("x.svg", '<svg>\n<image href="https://elsewhere.example/x.png"/></svg>'),
    ],
)
def test_what_the_files_of_a_page_load_from_elsewhere_is_found(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<p>")
    (tmp_path / name).write_text(text)
    code, printed = check_site(tmp_path)
    assert code == 1
    assert printed.startswith(f"{name}:2: loads ")


def test_links_and_what_is_the_sites_own_are_passed(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(
        '<link rel="canonical" href="https://elsewhere.example/"><link rel="stylesheet" href="x.css">'
        '<a href="https://elsewhere.example/">there</a><img src="data:image/svg+xml,<svg xmlns=\'http://www.w3.org/2000/svg\'/>">'
        '<script src="../x.js"></script><svg xmlns="http://www.w3.org/2000/svg"><use href="#a"/></svg>'
    )
    (tmp_path / "x.css").write_text(".a { mask: url(data:image/svg+xml;charset=utf-8,<svg/>); background: url(../a.png) }")
    assert check_site(tmp_path) == (0, "1 pages load nothing from elsewhere\n")


def test_a_site_without_pages_is_none(tmp_path: Path) -> None:
    assert check_site(tmp_path)[0] == 1
