"""`tools/check-layers` finds every circle among files, and nothing where there is none: on trees made up for it."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools/check-layers"

CORE = "rust-core/src"
PACKAGE = "bindings/python/dlock"
NODE = "bindings/node"


def check(tree: Path, files: dict[str, str]) -> tuple[int, str]:
    """The exit code and what the tool prints about a tree of these files."""
    for name, text in files.items():
        file = tree / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    ran = subprocess.run([sys.executable, TOOL, tree], capture_output=True, text=True, check=False)
    assert not ran.stderr
    return ran.returncode, ran.stdout


# Each names its circle as lines of the output, in order.
CIRCLES = {
    "rust, by crate": (
        {
            f"{CORE}/lib.rs": "mod one;\nmod two;\n",
            f"{CORE}/one.rs": "use crate::two::Two;\npub struct One;\n",
            f"{CORE}/two.rs": "\npub struct Two(crate::one::One);\n",
        },
        [f"{CORE}/one.rs:1 imports {CORE}/two.rs", f"{CORE}/two.rs:2 imports {CORE}/one.rs"],
    ),
    "rust, of a parent and its child": (
        {
            f"{CORE}/lib.rs": "mod outer;\n",
            f"{CORE}/outer/mod.rs": "mod inner;\n\nuse inner::Inner;\npub struct Outer(Inner);\n",
            f"{CORE}/outer/inner.rs": "use super::Outer;\npub struct Inner(Box<Outer>);\n",
        },
        [f"{CORE}/outer/inner.rs:1 imports {CORE}/outer/mod.rs", f"{CORE}/outer/mod.rs:3 imports {CORE}/outer/inner.rs"],
    ),
    "rust, of three through re-exports, groups and a module's name": (
        {
            f"{CORE}/lib.rs": "mod a;\nmod b;\nmod c;\npub use b::{B, B as Other};\n",
            f"{CORE}/a.rs": "use crate::{c::{self}, Other};\npub fn a(_: Other) {}\n",
            f"{CORE}/b.rs": "pub struct B;\nfn b() {\n    use super::c;\n    c::see()\n}\n",
            f"{CORE}/c.rs": "pub fn see() {}\nmod inline {\n    fn look() {\n        super::super::a::a(todo!())\n    }\n}\n",
        },
        [
            "a circle of 3 files",
            f"{CORE}/a.rs:1 imports {CORE}/b.rs",
            f"{CORE}/b.rs:4 imports {CORE}/c.rs",
            f"{CORE}/c.rs:4 imports {CORE}/a.rs",
        ],
    ),
    "python, also where a function imports": (
        {
            f"{PACKAGE}/__init__.py": "",
            f"{PACKAGE}/_one.py": "import os\nfrom dlock._two import Two\n",
            f"{PACKAGE}/_two.py": "class Two:\n    def one(self):\n        from ._one import one\n",
        },
        [f"{PACKAGE}/_one.py:2 imports {PACKAGE}/_two.py", f"{PACKAGE}/_two.py:3 imports {PACKAGE}/_one.py"],
    ),
    "python, with the package itself": (
        {f"{PACKAGE}/__init__.py": "from dlock._one import one\n", f"{PACKAGE}/_one.py": "import dlock\n"},
        [f"{PACKAGE}/__init__.py:1 imports {PACKAGE}/_one.py", f"{PACKAGE}/_one.py:1 imports {PACKAGE}/__init__.py"],
    ),
    "javascript, of both kinds of module": (
        {
            f"{NODE}/one.js": "'use strict';\nconst { two } = require('./two.js');\n",
            f"{NODE}/two.js": "// See './one.js'.\nconst late = () => import('./three.mjs');\n",
            f"{NODE}/three.mjs": "export { one } from './one.js';\n",
        },
        [
            f"{NODE}/one.js:2 imports {NODE}/two.js",
            f"{NODE}/two.js:2 imports {NODE}/three.mjs",
            f"{NODE}/three.mjs:1 imports {NODE}/one.js",
        ],
    ),
}

WITHOUT = {
    "rust: methods, tests, comments, texts and modules are no imports": {
        f"{CORE}/lib.rs": "mod one;\nmod outer;\npub use one::One;\n",
        f"{CORE}/one.rs": (
            "//! Of [`crate::outer::Outer`].\n"
            "pub struct One;\n"
            'impl One {\n    pub fn outer(&self) -> &str {\n        "crate::outer::Outer::new()"\n    }\n}\n'
            "pub fn see(one: &One) {\n    one.more();\n}\n"
            "#[cfg(test)]\nuse crate::outer::Outer;\n"
            "#[cfg(test)]\nmod tests {\n    use crate::outer::Outer;\n    fn t(_: Outer) {}\n}\n"
            "#[cfg(test)]\nmod one_tests;\n"
        ),
        f"{CORE}/one_tests.rs": "use super::*;\n",
        f"{CORE}/outer/mod.rs": "pub mod inner;\npub use inner::Inner;\npub type Outer = Inner;\n",
        f"{CORE}/outer/inner.rs": (
            "use crate::outer::inner;\nuse crate::One;\n"
            "pub struct Inner;\nimpl One {\n    pub(super) fn more(&self) -> inner::Inner {\n        Inner\n    }\n}\n"
        ),
    },
    "python": {
        f"{PACKAGE}/__init__.py": "from dlock._one import one\n",
        f"{PACKAGE}/_one.py": "from dlock._native import Lock\nfrom dlock._two import two\n",
        f"{PACKAGE}/_two.py": '"""from dlock._one import one"""\n',
    },
    "javascript": {
        f"{NODE}/one.js": "const { two } = require('./two.js');\nrequire('node:fs');\n",
        f"{NODE}/two.js": "/* require('./one.js') */\nconst text = 'http://./one.js'; // require('./one.js')\n",
    },
}


@pytest.mark.parametrize("name", CIRCLES)
def test_a_circle_is_found_and_shown_whole(name: str, tmp_path: Path) -> None:
    files, steps = CIRCLES[name]
    code, printed = check(tmp_path, files)
    assert code == 1
    shown = "\n".join(line.strip() for line in printed.splitlines())
    place = 0
    for step in steps:
        assert step in shown[place:], printed
        place = shown.index(step, place)
    assert "1 complaints" in printed


@pytest.mark.parametrize("name", WITHOUT)
def test_where_no_imports_run_in_a_circle_nothing_is_found(name: str, tmp_path: Path) -> None:
    code, printed = check(tmp_path, WITHOUT[name])
    assert (code, printed.splitlines()[-1]) == (0, "imports run one way"), printed


def test_two_circles_that_share_a_file_are_both_found(tmp_path: Path) -> None:
    files = {
        f"{PACKAGE}/__init__.py": "",
        f"{PACKAGE}/_a.py": "from dlock._b import b\nfrom dlock._c import c\n",
        f"{PACKAGE}/_b.py": "from dlock._a import a\n",
        f"{PACKAGE}/_c.py": "from dlock._a import a\n",
    }
    assert "2 circles in 1 knots" in check(tmp_path, files)[1]


def test_the_engine_may_not_use_what_is_on_a_layer_above(tmp_path: Path) -> None:
    files = {
        f"{CORE}/lib.rs": "mod clock;\nmod engine;\nmod backend;\nmod lock;\n",
        f"{CORE}/clock.rs": "pub struct Clock;\n",
        f"{CORE}/backend/mod.rs": "use crate::clock::Clock;\nuse crate::engine::Session;\n",
        f"{CORE}/engine/mod.rs": "use crate::backend::Backend;\npub struct Session;\n",
        f"{CORE}/lock.rs": "use crate::engine::Session;\nuse crate::backend::Backend;\n",
    }
    code, printed = check(tmp_path, files)
    assert code == 1
    assert f"{CORE}/backend/mod.rs:2: `backend` uses `engine`, which is on a layer above it" in printed
    assert "lock.rs:" not in printed


def test_a_module_is_not_imported_from_the_package(tmp_path: Path) -> None:
    files = {f"{PACKAGE}/__init__.py": "", f"{PACKAGE}/_a.py": "from dlock import _b\n", f"{PACKAGE}/_b.py": ""}
    code, printed = check(tmp_path, files)
    assert code == 1
    assert f"{PACKAGE}/_a.py:1: imports the module `_b` from the package" in printed
