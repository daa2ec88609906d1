"""Files that `s2l submit --working-dir` sends: no secrets, no runs, nothing that .gitignore or .rayignore excludes."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pathspec import GitIgnoreSpec

from s2l_ray.errors import UserError

MAX_BYTES = 100 << 20
"""Ray's limit on the size of a working directory."""
_MAX_FILES = 100_000
_NAMES_TOLD = 8

SECRET_FILES = (
    ".env*", "*.env", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.ppk", "*.kdbx", "*.gpg", "*.pgp",
    "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "id_xmss*", ".netrc", "_netrc", ".pgpass", ".my.cnf", ".boto",
    ".s3cfg", ".git-credentials", ".npmrc", ".yarnrc*", ".pypirc", ".dockercfg", ".databrickscfg", ".vault-token",
    ".htpasswd", "rclone.conf", "credentials", "credentials.*", "*service*account*.json", "client_secret*.json",
    "*credentials*.json", "*kubeconfig*", "*token", "*token.txt", "token.json", "*_token.json", "*.token",
    "*token.y*ml", "*.tfstate*", "*.tfvars", "secrets.*", "*.secret", "*.secrets", "passwords.*", "password.txt",
)  # fmt: skip
SECRET_FOLDERS = (
    ".aws/", ".ssh/", ".azure/", ".gnupg/", ".kube/", ".docker/", ".kaggle/", ".huggingface/", ".ray/", ".terraform/",
    ".oci/", ".config/gcloud/", ".config/gh/", ".config/rclone/", ".config/sky/", ".secrets/", "secrets/",
    ".cache/huggingface/", ".git/", ".hg/", ".svn/",
)  # fmt: skip
_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----(\\n|\r?\n)[\w+/=-]")
_HEAD_BYTES = 1 << 16
_IGNORE_FILES = (".gitignore", ".rayignore")


class WorkingDirError(UserError):
    """Error for a folder that cannot be sent as it is; nothing was submitted."""


@dataclass
class Selected:
    """Files of a folder that are sent, and those that are left out, by reason."""

    files: dict[str, Path] = field(default_factory=dict)
    """Path within the folder → the file that holds its content."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    num_bytes: int = 0

    def describe(self) -> list[str]:
        """Return one line per reason, and how to send the files anyway."""
        told = []
        for reason, names in self.left_out.items():
            shown = ", ".join(names[:_NAMES_TOLD]) + (", …" if len(names) > _NAMES_TOLD else "")
            told.append(f"{len(names)} left out of --working-dir ({reason}): {shown}")
        if told:
            told.append("--include PATTERN sends those files anyway, for example --include data/train.jsonl")
        return told

    def copy_to(self, folder: Path) -> None:
        for name, source in self.files.items():
            to = folder / name
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, to)
            to.chmod(stat.S_IMODE(source.stat().st_mode) | 0o600)


def select_files(
    folder: Path, include: Sequence[str] = (), always: Sequence[str] = (), ignore: bool = True
) -> Selected:
    """Walk the folder and choose the files to send.

    Args:
        include: patterns as in .gitignore; matching files are sent even if another rule would leave them out.
        always: paths within the folder that are sent in any case.
        ignore: whether to apply .gitignore and .rayignore; if so, these files themselves are not sent.

    Raises:
        WorkingDirError: the folder is too large or unreadable, or a name is not UTF-8.
    """
    return _Walk(folder.resolve(), include, always, ignore).run()


class _Walk:
    def __init__(self, root: Path, include: Sequence[str], always: Sequence[str], ignore: bool) -> None:
        self.root, self.always, self.ignore = root, set(always), ignore
        self.include = GitIgnoreSpec.from_lines(include)
        self.has_include = bool(include)
        self.secret = GitIgnoreSpec.from_lines([*SECRET_FILES, *SECRET_FOLDERS])
        self.found = Selected()
        self.specs: dict[tuple[Path, str], GitIgnoreSpec | None] = {}
        self.tops = {name: self._top() if name == ".gitignore" else root for name in _IGNORE_FILES}

    def run(self) -> Selected:
        if not self.root.is_dir():
            raise WorkingDirError(f"--working-dir {self.root} is not a folder; it must hold the configuration")
        self._folder(self.root, (self.root,))
        if self.found.num_bytes > MAX_BYTES:
            raise WorkingDirError(self._too_large())
        return self.found

    def _folder(self, folder: Path, above: tuple[Path, ...]) -> None:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise WorkingDirError(
                f"{folder} cannot be read ({error.strerror}), so it cannot be sent; name it in .rayignore"
            ) from error
        for entry in entries:
            path = folder / entry.name
            name = path.relative_to(self.root).as_posix()
            is_folder = os.path.isdir(path)  # follows links
            reason = self._reason(path, name, is_folder)
            if reason is not None and not (is_folder and self._may_hold_wanted(name)):
                if reason:
                    self.found.left_out.setdefault(reason, []).append(_printable(name) + "/" * is_folder)
            elif is_folder:
                real = path.resolve()
                if real not in above:  # skips links to a parent folder
                    self._folder(path, (*above, real))
            else:
                self._file(path, name)

    def _file(self, path: Path, name: str) -> None:
        if not name.isprintable() or "\\" in name or _is_not_utf8(name):
            raise WorkingDirError(f"{_printable(name)} in --working-dir has a name that cannot be sent; rename it")
        self.found.files[name] = path.resolve()
        self.found.num_bytes += path.stat().st_size
        if len(self.found.files) > _MAX_FILES:
            raise WorkingDirError(
                f"--working-dir {self.root} holds more than {_MAX_FILES:,} files to send; give a smaller folder, or "
                "name what the job does not need in .rayignore"
            )

    def _may_hold_wanted(self, folder: str) -> bool:
        return self.has_include or any(name.startswith(f"{folder}/") for name in self.always)

    def _reason(self, path: Path, name: str, is_folder: bool) -> str | None:
        """Return why a path is not sent; "" if that needs no mention, None if the path is sent."""
        if name in self.always or self._is_included(name):
            return None
        if is_folder and path.name == "__pycache__":
            return ""
        for each in self._it_and_its_target(path, name):
            if each is None:
                return "links that lead outside or nowhere"
            if self._is_secret(each):
                return "may hold secrets or their history"
            reason = self._ignored(each)
            if reason is not None:
                return reason
        if is_folder:
            return "runs of s2l" if (path / "config.yaml").exists() and (path / "metrics.jsonl").exists() else None
        if not path.is_file():
            return "neither files nor folders"
        return "hold a private key" if self._holds_key(path) else None

    def _it_and_its_target(self, path: Path, name: str) -> Iterator[str | None]:
        """Yield the path and, if it is a link, its target, as names within the folder; None for a target outside."""
        yield name
        real = Path(os.path.realpath(path))
        if not os.path.exists(real) or not real.is_relative_to(self.root):
            yield None
        elif real != path:
            yield real.relative_to(self.root).as_posix()

    def _is_included(self, name: str) -> bool:
        return self.has_include and self.include.match_file(name)

    def _is_secret(self, name: str) -> bool:
        lower = name.lower()
        if lower.endswith(".py") and "secret" not in lower:
            return self.secret.match_file(f"{os.path.dirname(lower)}/x" if "/" in lower else "x")
        return self.secret.match_file(lower) or self.secret.match_file(f"{lower}/")

    def _ignored(self, name: str) -> str | None:
        if not self.ignore:
            return None
        if name.rpartition("/")[2] in _IGNORE_FILES:
            return ""  # already applied here; if they were sent, Ray would apply them again to included files
        path = self.root / name
        for ignore_file in _IGNORE_FILES:
            if self._ignored_by(ignore_file, path):
                return f"by {ignore_file}"
        return None

    def _ignored_by(self, ignore_file: str, path: Path) -> bool:
        """Apply git's rules: the deepest file with a matching pattern decides; ignored folders are ignored whole."""
        top = self.tops[ignore_file]
        parts = path.relative_to(top).parts
        for depth in range(1, len(parts) + 1):
            part = top.joinpath(*parts[:depth])
            suffix = "/" if part.is_dir() else ""
            for base in part.parents:
                spec = self._spec(base, ignore_file)
                verdict = spec.check_file(part.relative_to(base).as_posix() + suffix).include if spec else None
                if verdict:
                    return True
                if verdict is False or base == top:
                    break
        return False

    def _spec(self, base: Path, ignore_file: str) -> GitIgnoreSpec | None:
        key = (base, ignore_file)
        if key not in self.specs:
            places = [base / ignore_file]
            if ignore_file == ".gitignore":
                places.insert(0, base / ".git/info/exclude")
            lines = [line for place in places if place.is_file() for line in _lines(place)]
            self.specs[key] = GitIgnoreSpec.from_lines(lines) if lines else None
        return self.specs[key]

    def _top(self) -> Path:
        """Return the root of the folder's repository, because .gitignore files above the folder apply, too."""
        for folder in (self.root, *self.root.parents):
            if (folder / ".git").exists():
                return folder
        return self.root

    def _holds_key(self, path: Path) -> bool:
        try:
            with open(path, "rb") as file:
                return _PRIVATE_KEY.search(file.read(_HEAD_BYTES)) is not None
        except OSError as error:
            raise WorkingDirError(
                f"{path} cannot be read ({error.strerror}), so it cannot be sent; name it in .rayignore"
            ) from error

    def _too_large(self) -> str:
        sizes: dict[str, int] = {}
        for name, path in self.found.files.items():
            top = name.partition("/")[0]
            sizes[top] = sizes.get(top, 0) + path.stat().st_size
        largest = sorted(sizes, key=lambda top: -sizes[top])[:4]
        told = ", ".join(f"{top} {sizes[top] / 1e6:,.0f} MB" for top in largest)
        return (
            f"--working-dir {self.root} would send {self.found.num_bytes / 1e6:,.0f} MB, but Ray accepts at most "
            f"{MAX_BYTES / 1e6:,.0f} MB (largest: {told}). Name what the job does not need in .rayignore, and put data "
            "where all nodes can reach it (s3://…)"
        )


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()


def _is_not_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return True
    return False


def _printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)[1:-1]
