"""Plant faults, one at a time, and see whether the tests find them: `make mutants`.

tests/mutants.toml lists the faults, and the tests that are run for each file. A fault is planted in a copy of the
working tree; the tree itself is only read. A fault is killed where the tests fail or do not end in time, and survives
where they pass. Tests that fail without a fault, and snippets that do not stand exactly once in their file, are errors.
tests/mutants.md says of every survivor why it may survive. Exit status 1: another one survived, or one of those was
killed. What was found is kept in --out and not done again until the fault, its file or its tests change.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parents[1]
LIST, SURVIVORS = ROOT / "tests" / "mutants.toml", ROOT / "tests" / "mutants.md"
_FAILED, _NOTHING_RUN = (1, 2), (4, 5)  # exit statuses of pytest; 2: a fault that breaks an import


class MutantError(ValueError):
    """A list that does not fit the code, or tests that say nothing."""


@dataclass(frozen=True)
class Mutant:
    """One fault: `before`, which stands once in `file`, becomes `after`; `tests` are run for it."""

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]

    def planted(self, text: str) -> str:
        """The file's text with the fault. Raises MutantError where the snippet does not stand exactly once in it."""
        found = text.count(self.before)
        if found != 1 or self.before == self.after:
            raise MutantError(f"{self.name}: its snippet stands {found} times in {self.file}; mend tests/mutants.toml")
        return text.replace(self.before, self.after)

    def digest(self) -> str:
        """Of all that says whether it survives: itself, its file and its tests."""
        parts = [self.name, self.before, self.after, *self.tests]
        parts += [(ROOT / path).read_text(encoding="utf-8") for path in (self.file, *self.tests)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def read_mutants() -> list[Mutant]:
    """The committed list."""
    content = tomllib.loads(LIST.read_text(encoding="utf-8"))
    return [Mutant(**entry, tests=tuple(content["tests"][entry["file"]])) for entry in content["mutant"]]


def known_survivors() -> dict[str, str]:
    """Name and reason of each survivor that tests/mutants.md accepts, from its lines '- `name`: why'."""
    return dict(re.findall(r"^- `(.+?)`: (.+)$", SURVIVORS.read_text(encoding="utf-8"), re.M))


def outcome(tree: Path, mutant: Mutant | None, tests: Sequence[str], timeout: int) -> str:
    """'killed', 'survived' or 'timeout'; mutant None: of the tree as it is. The tree is left as it was."""
    path = tree / (mutant.file if mutant else tests[0])
    text = path.read_text(encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:randomly", *tests]
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree / "src"),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    try:
        if mutant:
            path.write_text(mutant.planted(text), encoding="utf-8")
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return "timeout"
    finally:
        path.write_text(text, encoding="utf-8")
    if done.returncode in _FAILED:
        return "killed"
    if done.returncode in _NOTHING_RUN or done.returncode != 0:
        raise MutantError(f"pytest {' '.join(tests)} ended with status {done.returncode}:\n{done.stdout[-2000:]}")
    return "survived"


@contextmanager
def copies(count: int) -> Iterator[SimpleQueue[Path]]:
    """That many copies of the working tree, without what git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(count):
            tree = Path(folder) / str(number)
            for name in filter(None, listed.stdout.split("\0")):
                if (ROOT / name).exists():
                    (tree / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
            trees.put(tree)
        yield trees


def run(mutants: Sequence[Mutant], out: Path, jobs: int, timeout: int) -> dict[str, str]:
    """Outcome of each mutant by name; each is written down as soon as it is known."""
    out.mkdir(parents=True, exist_ok=True)
    log = out / "outcomes.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    known = {entry["digest"]: entry["outcome"] for entry in map(json.loads, lines)}
    with copies(jobs) as trees, ThreadPoolExecutor(jobs) as pool, log.open("a", encoding="utf-8") as file:

        def one(name: str, digest: str, mutant: Mutant | None, tests: tuple[str, ...]) -> str:
            if digest not in known:
                tree = trees.get()
                try:
                    known[digest] = outcome(tree, mutant, tests, timeout)
                finally:
                    trees.put(tree)
                if mutant or known[digest] == "survived":  # the next run asks again where the tests alone did not pass
                    file.write(json.dumps({"name": name, "digest": digest, "outcome": known[digest]}) + "\n")
                    file.flush()
                print(f"{known[digest]:9}{name}", flush=True)
            return known[digest]

        def bare(mutant: Mutant) -> str:
            return one(f"no fault: {mutant.file}", f"{mutant.digest()}-bare", None, mutant.tests)

        first = {mutant.tests: mutant for mutant in reversed(mutants)}  # once for each set of tests
        for mutant, found in zip(first.values(), pool.map(bare, first.values()), strict=True):
            if found != "survived":
                raise MutantError(f"{', '.join(mutant.tests)}: fail without a fault; mend them first")
        found_of = pool.map(lambda mutant: one(mutant.name, mutant.digest(), mutant, mutant.tests), mutants)
        return dict(zip((mutant.name for mutant in mutants), found_of, strict=True))


def chosen(mutants: Iterable[Mutant], patterns: Sequence[str]) -> list[Mutant]:
    """Those whose name or file holds one of the patterns; all without a pattern."""
    return [m for m in mutants if not patterns or any(part in m.name or part in m.file for part in patterns)]


def main() -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="part of a name or file: only these faults (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="faults at a time, each on one core (default 1)")
    parser.add_argument("--timeout", type=int, default=300, help="seconds that the tests of a fault may take")
    parser.add_argument("--out", type=Path, default=ROOT / ".mutants", help="where outcomes are kept")
    options = parser.parse_args()
    mutants = chosen(read_mutants(), options.only)
    try:
        if not mutants:
            raise MutantError(f"no fault has {' or '.join(options.only)} in its name or file; see tests/mutants.toml")
        for mutant in mutants:
            mutant.planted((ROOT / mutant.file).read_text(encoding="utf-8"))
        outcomes = run(mutants, options.out, options.jobs, options.timeout)
    except MutantError as error:
        print(error, file=sys.stderr)
        return 2
    survived = {name for name, found in outcomes.items() if found == "survived"}
    accepted = known_survivors().keys() & outcomes.keys()
    print(f"{len(outcomes) - len(survived)} of {len(outcomes)} faults were found")
    for name in sorted(survived - accepted):
        print(f"survived: {name}: write a test that finds it, or say in tests/mutants.md why none can")
    for name in sorted(accepted - survived):
        print(f"killed: {name}: is found now; remove it from tests/mutants.md")
    return 1 if survived != accepted else 0


if __name__ == "__main__":
    sys.exit(main())
